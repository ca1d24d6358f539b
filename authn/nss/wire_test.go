package nss

import (
	"reflect"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"alice": true, "Alice": true, "alice.anders": true, "a@b": true, `CORP\alice`: true, "ümit": true, "": false, "a b": false, "a:b": false,
		"a,b": false, "a/b": false, "a\nb": false, "a\x00b": false, strings.Repeat("x", MaxNameOctets): true, strings.Repeat("x", MaxNameOctets+1): false,
	} {
		if IsName(name) != want {
			t.Errorf("IsName(%q) = %v", name, !want)
		}
	}
}

func TestAnswerThatIsTooLong(t *testing.T) {
	t.Parallel()
	members := make([]string, 20000)
	for i := range members {
		members[i] = "member-of-group"
	}
	if _, err := (Answer{Outcome: Found, Name: "g", Members: members}).AppendBinary(nil); err == nil {
		t.Error("an endless group was encoded")
	}
}

func FuzzAnswer(f *testing.F) {
	for _, a := range []Answer{{}, {Outcome: Absent}, {Outcome: Found, Name: "alice", UID: 1000, GID: 100, Comment: "A", Home: "/h", Shell: "/s", Members: []string{"a", "b"}, Detail: "x"}} {
		seed, err := a.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		var a, again Answer
		if a.UnmarshalBinary(message) != nil {
			return
		}
		back, err := a.AppendBinary(nil)
		if err != nil {
			t.Fatalf("%+v does not go back: %v", a, err)
		}
		if err := again.UnmarshalBinary(back); err != nil || !reflect.DeepEqual(a, again) {
			t.Errorf("%+v reads back as %+v, %v", a, again, err)
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte("N\x01ualice"))
	f.Add([]byte("N\x01g"))
	f.Fuzz(func(t *testing.T, message []byte) {
		var q Question
		if q.UnmarshalBinary(message) != nil {
			return
		}
		if back, err := q.AppendBinary(nil); err != nil || string(back) != string(message) {
			t.Errorf("%q reads back as %q, %v", message, back, err)
		}
	})
}
