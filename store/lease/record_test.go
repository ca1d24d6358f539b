package lease

import "testing"

func TestRecords(t *testing.T) {
	t.Parallel()
	r := record{epoch: 1<<40 + 7, holder: holderID{1, 2, 3}}
	if back, err := decodeRecord(r.encode()); err != nil || back != r {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range [][]byte{{}, {1}, append([]byte{2}, r.encode()[1:]...), append(r.encode(), 0)} {
		if _, err := decodeRecord(bad); err == nil {
			t.Errorf("%x was read", bad)
		}
	}
	if name := nameIn(heartbeat(3, "mail1")); name != "mail1" {
		t.Errorf("name %q", name)
	}
}
