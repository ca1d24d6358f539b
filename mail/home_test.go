package mail_test

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestHomeClass: the class is a promise between gateway and backend, and
// between releases: these names stay where they are.
func TestHomeClass(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]uint8{"": 1, "kim": 0, "pat": 1, "lee": 1, "kim@example.org": 0} {
		if got := (mail.Account{Name: name}).HomeClass(); got != want {
			t.Errorf("%q is at home on class %d, want %d", name, got, want)
		}
	}
	var of [2]int
	for i := range 10000 {
		of[mail.Account{Name: fmt.Sprint("user", i)}.HomeClass()]++
	}
	if of[0] < 4700 || of[1] < 4700 {
		t.Errorf("%v accounts of 10000 are at home on either", of)
	}
}
