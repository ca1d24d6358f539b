//go:build race

package testenv

// buildMode has programs that tests build made of what the tests are made of,
// which the cache has, and not compiled anew from the first package on.
var buildMode = []string{"-race"}
