//go:build pam

package main

func init() { builtWith = append(builtWith, "pam") }
