package config

import (
	"slices"
	"strconv"
	"strings"
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
	best, distance := "", 1+len(got)/3
	for _, word := range known {
		if d := editDistance(got, word); d <= distance {
			best, distance = word, d-1
		}
	}
	switch {
	case best != "":
		return " Did you mean " + strconv.Quote(best) + "?"
	case len(known) > 0 && len(known) <= 12:
		return " Known here: " + strings.Join(slices.Sorted(slices.Values(known)), ", ") + "."
	default:
		return ""
	}
}

// editDistance counts the single-octet changes between two words.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
