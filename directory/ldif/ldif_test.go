package ldif_test

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/directory/directorytest"
	"github.com/postern-mail/postern/directory/ldif"
	company "github.com/postern-mail/postern/testdata/ldif"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, tree := range company.Trees() {
		t.Run(tree.Preset, func(t *testing.T) {
			t.Parallel()
			directorytest.Run(t, tree, load(t, tree))
		})
	}
}

func load(t testing.TB, tree company.Tree) *ldif.Source {
	t.Helper()
	entries, err := ldif.Parse(tree.Preset+".ldif", bytes.NewReader(tree.LDIF))
	if err != nil {
		t.Fatal(err)
	}
	return ldif.NewSource(ldif.NewTree(entries))
}
