package sortkey

import (
	"reflect"
	"strings"
	"testing"
)

func stored(t *testing.T, k Key) Key {
	t.Helper()
	b := k.Append(nil)
	got, err := Parse(string(b))
	if err != nil {
		t.Fatalf("%+v: %v", k, err)
	}
	for i := range b {
		if got, err := Parse(string(b[:i])); err == nil && reflect.DeepEqual(got, k) {
			t.Fatalf("the first %d octets of %d are the whole key", i, len(b))
		}
	}
	return got
}

func TestStored(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\u00e9", 5000)
	for _, k := range []Key{
		{},
		Of([]byte(`("Mon, 7 Feb 1994 21:52:25 -0800" "Re: x" (("Ann" NIL "ann" "example.com")) NIL NIL ((NIL NIL "b" "c")) NIL NIL "<a@b>" "<id@host>")`), nil),
		Of([]byte(`("Mon, 7 Feb 1904 21:52:25 -0800" NIL NIL NIL NIL NIL NIL NIL NIL NIL)`), []byte("References: <a@b> <c@d>\r\n")),
		Of([]byte(`(NIL "`+long+`" (("`+long+`" NIL "`+long+`" "x")) NIL NIL NIL NIL NIL NIL NIL)`), []byte("References: "+strings.Repeat("<a@b>", 5000))),
	} {
		if got := stored(t, k); !reflect.DeepEqual(got, k) {
			t.Errorf("got %+v, want %+v", got, k)
		}
	}
}

// FuzzParse: whatever is read is a key within its bounds, and is what is read
// again.
func FuzzParse(f *testing.F) {
	k := Of([]byte(`("7 Feb 1994" "Re: x" ((NIL NIL "a" "b")) NIL NIL NIL NIL NIL "<a@b>" "<c@d>")`), []byte("References: <a@b>\r\n <c@d>\r\n"))
	f.Add(string(k.Append(nil)))
	f.Add("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
	f.Add("\x00\x00\x00\x00\x00\x00\x00")
	f.Fuzz(func(t *testing.T, b string) {
		k, err := Parse(b)
		if err != nil {
			return
		}
		if k.Octets() > 10<<10 {
			t.Errorf("key of %d octets", k.Octets())
		}
		for f := range Field(Fields) {
			_ = k.Text(f)
		}
		if again, err := Parse(string(k.Append(nil))); err != nil || !reflect.DeepEqual(again, k) {
			t.Errorf("got %+v, %v; want %+v", again, err, k)
		}
	})
}
