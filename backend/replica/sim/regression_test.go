package sim

import (
	"testing"

	"github.com/postern-mail/postern/internal/mutant"
)

// TestRegressions plays what once broke a promise: the fewest steps that did,
// or a whole seed.
func TestRegressions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		seed   uint64
		replay string
	}{
		{
			"a mailbox is deleted by who had not seen the message in it", 477,
			"43a70b26f245421ffa6953bad5ac1eea6300723a27010f647298fdec1ee9c48a19e001023da2d20ba54e0071c48cf4b34d03cfabca63dacd0e7645ccbdad2301b19a8f0c1bca23ba5aca8a3320",
		},
		{
			"and one below which others hang", 547,
			"1e14b1ac5b96ac1e15e87dc4c8981148991ff013704305e856916e1212ec280e2e0e091035edb341f2f40f796e6e205bcb0e5258255f370e0176f2f653007323e538add5f5da",
		},
		{"mailboxes of one name are merged before a twin arrives", 321, ""},
		{
			"flags of twins, and a change of them in the same records", 996,
			"42c6878432222b1057f936cbaa180ad69c466b53aa0915108fe4527a13e7533653b8531e7cb3ccf18c401b3f6da4e479ed18233fedaf8747",
		},
		{
			"records after a state merge that was broken off", 1576,
			"078e0ab6de694909bf5d4a74a4dc08e85cda5b444804f245f31f7b1910c0419ad3f13803899b7e693ce10206fcb344f84a037a14de32b55501bd7570c4818502e15db3bae02800a9786f1eee9e03b3fd30327f7701a0ff829a35d00277c7adfbe3de00d2367ded8f6d03accd4914166e0191939628638002fe1440044b800049bb1cb6d91203ea578db433b901e8cc95dbc67f0211f7c907f7ca04f63051ac926b035b8858d6e69f01a892db70d69a02a726bd89689304ea197ad0479003297ab48f34ea01eeae7ebfd97e02ef1ee118a38300f97fcc3e240f036c7775b810840b54d8f1a5a52b011068b0749d0d",
		},
		{"home goes before it gave the UIDs that it owed itself", 2711, ""},
		{"the only body of a copy is damaged before the partner has it", 1605, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			all, err := decode(row.replay)
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 0 {
				all = draw(row.seed)
			}
			if w := run(row.seed, all, mutant.None, false); w.failure != nil {
				t.Error(w.failure)
			}
		})
	}
}
