package mail

import "strings"

// Mask names accounts: "*" in it stands for any characters, "?" for one. Case
// does not matter, as in the names of accounts.
type Mask string

// Matches reports whether the mask names an account. It takes time in
// proportion to the product of the lengths at most.
func (m Mask) Matches(account string) bool {
	mask, name := []rune(strings.ToLower(string(m))), []rune(strings.ToLower(account))
	star, mark := -1, 0 // the last "*", and what it stands for ends here
	i, j := 0, 0
	for j < len(name) {
		switch {
		case i < len(mask) && mask[i] == '*':
			star, mark = i, j
			i++
		case i < len(mask) && (mask[i] == '?' || mask[i] == name[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(mask) && mask[i] == '*' {
		i++
	}
	return i == len(mask)
}
