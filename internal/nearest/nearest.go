// Package nearest finds the word somebody meant when they mistyped it.
package nearest

// Word returns the candidate nearest to a mistyped word, or "" when none is
// near: when more than a third of the word, and one octet, would have to
// change. Of equally near ones it returns the first.
func Word(mistyped string, candidates []string) string {
	best, nearest := "", len(mistyped)/3+2
	for _, c := range candidates {
		if d := distance(mistyped, c); d < nearest {
			best, nearest = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions and changes of octets from a to b.
func distance(a, b string) int {
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
