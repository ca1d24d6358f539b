//go:build !race

package testenv

var buildMode []string // see race.go
