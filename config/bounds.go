package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// sameFile reports whether two paths lead to one file, however they are
// written.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// What a file may hold. The parser calls itself for what is nested, and a stack
// that overflows would end the process: a slip of the hand must not, at a
// reload.
const (
	maxFileOctets = 16 << 20
	maxNesting    = 100
)

// readBounded reads a file that somebody may have named by mistake, such as a
// device or a log.
func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	if info.Size() > maxFileOctets {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d octets", maxFileOctets)}
	}
	return os.ReadFile(path)
}

// tooDeep finds the place where a file nests deeper than the parser should
// follow. Operators count like brackets until the line ends.
func tooDeep(content []byte, path string) (at hcl.Range, found bool) {
	tokens, _ := hclsyntax.LexConfig(content, path, hcl.InitialPos) // the parser tells what is wrong with them
	depth, operators := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc,
			hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenQuestion:
			operators++
		case hclsyntax.TokenNewline:
			operators = 0
		}
		if depth+operators > maxNesting {
			return t.Range, true
		}
	}
	return hcl.Range{}, false
}
