package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

//go:generate env UPDATE_GOLDEN=1 go test -count=1 -run TestDocumentIsCurrent .

// Document writes docs/config.md from the schema.
func Document(w io.Writer) error {
	var b strings.Builder
	b.WriteString(documentHead)
	documentBlock(&b, "", reflect.TypeFor[File]())
	_, err := io.WriteString(w, b.String())
	return err
}

const documentHead = `# Configuration

Generated from the schema in ` + "`config/schema.go`" + ` by ` + "`make golden`" + `; do not edit.

Postern reads one HCL file and what it includes. Unknown settings are errors. ` + "`postern config check -c FILE`" + `
tells every mistake with its place; ` + "`postern config show`" + ` prints what is in effect. Times are written "300ms", "10s",
"5m", "12h" or "5d"; sizes 50000000, "50 MB" or "64 MiB". A single value may stand for a list of one.
Blocks are referred to by name: ` + "`directory.corp`, `target.mail1`" + `.

`

func documentBlock(b *strings.Builder, path string, t reflect.Type) {
	title := path
	if title == "" {
		title = "Top level"
	}
	fmt.Fprintf(b, "## %s\n\n", title)
	v := reflect.New(t).Elem()
	fields := fieldsOf(v)
	var rows, blocks strings.Builder
	type sub struct {
		path string
		t    reflect.Type
	}
	var subs []sub
	for _, f := range fields {
		switch f.kind {
		case "label":
		case "ordered":
			b.WriteString("Its steps are the restrictions of docs/policy.md, as blocks in the order they are asked.\n\n")
		case "block":
			elem := f.value.Type().Elem()
			if elem.Kind() == reflect.Pointer {
				elem = elem.Elem()
			}
			fmt.Fprintf(&blocks, "- `%s`: %s\n", f.name, f.tag.Get("doc"))
			subs = append(subs, sub{strings.TrimPrefix(path+"."+f.name, "."), elem})
		default:
			fmt.Fprintf(&rows, "| `%s` | %s | %s | %s |\n", f.name, typeName(f), defaultText(f), f.tag.Get("doc"))
		}
	}
	if rows.Len() > 0 {
		b.WriteString("| setting | value | default | meaning |\n|---|---|---|---|\n" + rows.String() + "\n")
	}
	if blocks.Len() > 0 {
		b.WriteString("Blocks:\n\n" + blocks.String() + "\n")
	}
	for _, s := range subs {
		if s.path == "gateway.listener.tls" || s.path == "backend.listener.tls" {
			continue // the same as the block tls of the top level
		}
		documentBlock(b, s.path, s.t)
	}
}

func typeName(f field) string {
	if set := f.tag.Get("oneof"); set != "" {
		return "`" + strings.Join(strings.Fields(set), "`, `") + "`"
	}
	return kindName(f.value.Type())
}

func kindName(t reflect.Type) string {
	switch t {
	case durationType:
		return "time"
	case octetsType:
		return "size"
	case domainType:
		return "domain"
	case addressType:
		return "address"
	case prefixType:
		return "network"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list of " + kindName(t.Elem()) + "s"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "number"
	default:
		return "text"
	}
}

func defaultText(f field) string {
	if f.tag.Get("required") != "" {
		return "required"
	}
	if text := f.tag.Get("default"); text != "" {
		return "`" + text + "`"
	}
	return ""
}
