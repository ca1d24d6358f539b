package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/nearest"
)

func contains(set []string, s string) bool { return slices.Contains(set, s) }

func quoteList(set []string) string {
	quoted := make([]string, len(set))
	for i, s := range set {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, ", ")
}

// didYouMean names the known word nearest to a mistyped one, or all of them
// when there are few and none is near.
func didYouMean(got string, known []string) string {
	best := nearest.Word(got, known)
	switch {
	case best != "":
		return " Did you mean " + strconv.Quote(best) + "?"
	case len(known) > 0 && len(known) <= 12:
		return " Known here: " + strings.Join(slices.Sorted(slices.Values(known)), ", ") + "."
	default:
		return ""
	}
}
