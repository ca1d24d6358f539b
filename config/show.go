package config

import (
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/postern-mail/postern/mail"
)

// Show writes the configuration in effect as one file: with every default,
// or only what differs from the defaults. What it writes can be read again.
func (f *File) Show(w io.Writer, nonDefault bool) error {
	out := hclwrite.NewEmptyFile()
	show(out.Body(), reflect.ValueOf(f).Elem(), nonDefault)
	_, err := out.WriteTo(w)
	return err
}

func show(body *hclwrite.Body, v reflect.Value, nonDefault bool) {
	self := v.Addr().Interface().(blocky).self()
	for _, f := range fieldsOf(v) {
		switch f.kind {
		case "label":
		case "block":
			showBlocks(body, f, nonDefault)
		case "ordered":
			for _, item := range f.value.Interface().(ordered) {
				step := body.AppendNewBlock(item.name, nil).Body()
				for name, values := range item.args {
					step.SetAttributeValue(name, stringList(values))
				}
			}
		default:
			if f.name == "include" || nonDefault && (!self.wrote(f.name) || isDefault(f)) {
				continue
			}
			if f.tag.Get("default") == "" && isDefault(f) {
				continue // nothing to say: neither set nor set to anything
			}
			body.SetAttributeValue(f.name, ctyOf(f.value))
		}
	}
}

func showBlocks(body *hclwrite.Body, f field, nonDefault bool) {
	elems := []reflect.Value{f.value}
	if f.value.Kind() == reflect.Slice {
		elems = elems[:0]
		for i := range f.value.Len() {
			elems = append(elems, f.value.Index(i))
		}
	}
	for _, elem := range elems {
		if elem.IsNil() {
			continue
		}
		self := elem.Interface().(blocky).self()
		if nonDefault && self.at.Filename == "" {
			continue // nobody wrote it: all of it is default
		}
		show(body.AppendNewBlock(f.name, self.labels).Body(), elem.Elem(), nonDefault)
	}
}

// isDefault reports whether a field holds what an absent attribute means.
func isDefault(f field) bool {
	fallback := reflect.New(f.value.Type()).Elem()
	if text := f.tag.Get("default"); text != "" {
		if err := setText(fallback, text); err != nil {
			panic(fmt.Sprintf("schema: default of %s: %v", f.name, err))
		}
	}
	return reflect.DeepEqual(f.value.Interface(), fallback.Interface()) ||
		f.value.Kind() == reflect.Slice && f.value.Len() == 0 && fallback.Len() == 0
}

// ctyOf is the file's notation of a value.
func ctyOf(v reflect.Value) cty.Value {
	switch x := v.Interface().(type) {
	case time.Duration:
		return cty.StringVal(formatDuration(x))
	case Octets:
		return cty.StringVal(formatOctets(x))
	case mail.Address:
		return cty.StringVal(x.String())
	case netip.Prefix:
		return cty.StringVal(x.String())
	}
	switch v.Kind() {
	case reflect.Bool:
		return cty.BoolVal(v.Bool())
	case reflect.Int, reflect.Int64:
		return cty.NumberIntVal(v.Int())
	case reflect.Slice:
		list := make([]cty.Value, v.Len())
		for i := range list {
			list[i] = ctyOf(v.Index(i))
		}
		return cty.TupleVal(list)
	default:
		return cty.StringVal(v.String())
	}
}

func stringList(values []string) cty.Value {
	list := make([]cty.Value, len(values))
	for i, s := range values {
		list[i] = cty.StringVal(s)
	}
	return cty.TupleVal(list)
}

// formatDuration writes 5d rather than 120h0m0s.
func formatDuration(d time.Duration) string {
	if d > 0 && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func formatOctets(o Octets) string {
	for _, unit := range []struct {
		suffix string
		factor Octets
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if o > 0 && o%unit.factor == 0 {
			return fmt.Sprintf("%d %s", o/unit.factor, unit.suffix)
		}
	}
	return fmt.Sprintf("%d", o)
}
