package queue

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/postern-mail/postern/mail"
)

// TestListIsWhatShowTells: what a page reads ahead is what each message has,
// over several pages.
func TestListIsWhatShowTells(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{RecipientLimit: 2}, func(t *testing.T, r *rig) {
		r.transport.deliver = to(map[string]mail.Outcome{"later": later})
		r.start()
		for n := range listAtOnce + 50 {
			recipients := []string{"later@b.test", "bob@b.test", "later@c.test", "later@d.test", "dave@b.test"}[:1+n%5]
			if n%7 == 0 {
				s := r.submit(fmt.Sprintf("s%d@a.test", n), recipients...)
				s.Hold = true
				if err := r.Accept(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				continue
			}
			r.accept(fmt.Sprintf("s%d@a.test", n), recipients...)
		}
		settle()
		n := 0
		for listed, err := range r.List(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			if shown, ok := r.show(listed.ID); !ok || !reflect.DeepEqual(listed, shown) {
				t.Fatalf("listed %+v, shown %+v", listed, shown)
			}
		}
		if n != listAtOnce+50 {
			t.Errorf("listed %d", n)
		}
	})
}
