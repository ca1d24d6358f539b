//go:build gssapi

package main

func init() { builtWith = append(builtWith, "gssapi") }
