package config

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/postern-mail/postern/internal/nearest"
	"github.com/postern-mail/postern/mail"
)

// block is embedded in every struct of the schema: where it stands in the
// files, and which of its attributes were written there.
type block struct {
	labels []string
	at     hcl.Range
	attrs  map[string]hcl.Range
}

// rangeOf returns where an attribute was written, or the block itself when it
// has its default.
func (b *block) rangeOf(name string) hcl.Range {
	if r, ok := b.attrs[name]; ok {
		return r
	}
	return b.at
}

// wrote reports whether the attribute stands in the file.
func (b *block) wrote(name string) bool {
	_, ok := b.attrs[name]
	return ok
}

func (b *block) self() *block { return b }

// emptyBody is a block of which nothing was written.
var emptyBody = &hclsyntax.Body{}

type blocky interface{ self() *block }

// Octets is a size; it is written as a number or as "50 MiB".
type Octets int64

// ordered is a body whose blocks keep their order and are read by somebody
// else: a policy list.
type ordered []orderedItem

type orderedItem struct {
	name  string
	args  map[string][]string
	attrs map[string]hcl.Range
	at    hcl.Range
}

// decoder fills schema structs from syntax and collects every mistake.
//
// A field's tag `conf:"name"` makes it an attribute, `conf:"name,block"` a
// block (pointer: at most one; slice: any number), `conf:"name,label"` a label
// in order, `conf:",ordered"` the whole body. `default:"..."` is what an
// absent attribute means, in the file's own notation; `required:"..."` makes
// it mandatory and says why; `oneof:"a b"` closes the set of values.
type decoder struct {
	ctx   *hcl.EvalContext
	diags hcl.Diagnostics
}

func (d *decoder) errorf(at hcl.Range, summary, detail string, args ...any) {
	d.diags = append(d.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(detail, args...), Subject: at.Ptr(),
	})
}

type field struct {
	value reflect.Value
	tag   reflect.StructTag
	name  string
	kind  string // "", "block", "label", "ordered"
}

// fieldsOf lists the tagged fields of a schema struct.
func fieldsOf(v reflect.Value) []field {
	var fields []field
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		conf, ok := sf.Tag.Lookup("conf")
		if !ok {
			continue
		}
		name, kind, _ := strings.Cut(conf, ",")
		fields = append(fields, field{value: v.Field(i), tag: sf.Tag, name: name, kind: kind})
	}
	return fields
}

// decode reads body into target, a pointer to a schema struct.
func (d *decoder) decode(body *hclsyntax.Body, labels []string, at hcl.Range, target any) {
	v := reflect.ValueOf(target).Elem()
	self := target.(blocky).self()
	self.labels, self.at, self.attrs = labels, at, make(map[string]hcl.Range)
	var attributes, blocks []string
	fields := fieldsOf(v)
	label := 0
	for _, f := range fields {
		switch f.kind {
		case "label":
			f.value.SetString(labels[label])
			label++
		case "block":
			blocks = append(blocks, f.name)
		case "ordered":
			d.decodeOrdered(body, f)
			return
		default:
			attributes = append(attributes, f.name)
			d.decodeAttribute(body, f, self)
		}
	}
	for _, f := range fields {
		if f.kind == "block" {
			d.decodeBlocks(body, f)
		}
	}
	d.refuseUnknown(body, attributes, blocks)
}

func (d *decoder) decodeAttribute(body *hclsyntax.Body, f field, self *block) {
	attr, ok := body.Attributes[f.name]
	if !ok {
		if why := f.tag.Get("required"); why != "" {
			d.errorf(self.at, "Missing setting", "%q is required here: %s.", f.name, why)
			return
		}
		if text := f.tag.Get("default"); text != "" {
			if err := setText(f.value, text); err != nil {
				panic(fmt.Sprintf("schema: default of %s: %v", f.name, err))
			}
		}
		return
	}
	self.attrs[f.name] = attr.SrcRange
	value, ok := d.evaluate(attr)
	if !ok {
		return
	}
	if err := setValue(f.value, value); err != nil {
		d.errorf(attr.Expr.Range(), "Wrong value", "%s: %v.", f.name, err)
		return
	}
	if set := f.tag.Get("oneof"); set != "" {
		d.checkOneOf(attr, f, strings.Fields(set))
	}
}

// evaluate gives an attribute's value. A name that refers to nothing gets an
// answer in our words.
func (d *decoder) evaluate(attr *hclsyntax.Attribute) (cty.Value, bool) {
	if steps := attr.Expr.Variables(); len(steps) == 1 && len(steps[0]) == 2 {
		kind := steps[0].RootName()
		if step, ok := steps[0][1].(hcl.TraverseAttr); ok && d.ctx != nil {
			set := d.ctx.Variables[kind]
			if set != cty.NilVal && set.Type().IsObjectType() && !set.Type().HasAttribute(step.Name) {
				names := slices.Sorted(maps.Keys(set.Type().AttributeTypes()))
				d.errorf(attr.Expr.Range(), "Refers to nothing", "There is no %s block named %q.%s", kind, step.Name, didYouMean(step.Name, names))
				return cty.NilVal, false
			}
		}
	}
	value, diags := attr.Expr.Value(d.ctx)
	d.diags = append(d.diags, diags...)
	return value, !diags.HasErrors()
}

func (d *decoder) checkOneOf(attr *hclsyntax.Attribute, f field, set []string) {
	got := f.value.String()
	for _, allowed := range set {
		if got == allowed {
			return
		}
	}
	hint := ""
	if nearest.Word(got, set) != "" {
		hint = didYouMean(got, set)
	}
	d.errorf(attr.Expr.Range(), "Wrong value", "%s is %q; it is one of %s.%s", f.name, got, quoteList(set), hint)
}

func (d *decoder) decodeBlocks(body *hclsyntax.Body, f field) {
	elem := f.value.Type().Elem()
	many := f.value.Kind() == reflect.Slice
	if many {
		elem = elem.Elem()
	}
	wantLabels := 0
	for _, sub := range fieldsOf(reflect.New(elem).Elem()) {
		if sub.kind == "label" {
			wantLabels++
		}
	}
	found := false
	for _, b := range body.Blocks {
		if b.Type != f.name {
			continue
		}
		if len(b.Labels) != wantLabels {
			d.errorf(b.DefRange(), "Wrong number of labels", "A %q block has %d label(s), as in: %s.", f.name, wantLabels, f.tag.Get("example"))
			continue
		}
		if found && !many {
			d.errorf(b.DefRange(), "Repeated block", "There can be only one %q block here.", f.name)
			continue
		}
		found = true
		target := reflect.New(elem)
		d.decode(b.Body, b.Labels, b.DefRange(), target.Interface())
		if many {
			f.value.Set(reflect.Append(f.value, target))
		} else {
			f.value.Set(target)
		}
	}
}

func (d *decoder) decodeOrdered(body *hclsyntax.Body, f field) {
	for _, attr := range body.Attributes {
		d.errorf(attr.SrcRange, "Setting in a list", "%q is not a step of a policy list; steps are blocks, as in: permit_mynetworks {}.", attr.Name)
	}
	var list ordered
	for _, b := range body.Blocks {
		item := orderedItem{name: b.Type, at: b.DefRange(), args: make(map[string][]string), attrs: make(map[string]hcl.Range)}
		if len(b.Labels) > 0 {
			d.errorf(b.DefRange(), "Wrong number of labels", "The step %q takes no label; its arguments stand between the braces.", b.Type)
		}
		for _, sub := range b.Body.Blocks {
			d.errorf(sub.DefRange(), "Nested block", "A step of a policy list holds settings only.")
		}
		for _, attr := range b.Body.Attributes {
			value, ok := d.evaluate(attr)
			if !ok {
				continue
			}
			var values []string
			if err := setValue(reflect.ValueOf(&values).Elem(), value); err != nil {
				d.errorf(attr.Expr.Range(), "Wrong value", "%s: %v.", attr.Name, err)
				continue
			}
			item.args[attr.Name], item.attrs[attr.Name] = values, attr.SrcRange
		}
		list = append(list, item)
	}
	f.value.Set(reflect.ValueOf(list))
}

func (d *decoder) refuseUnknown(body *hclsyntax.Body, attributes, blocks []string) {
	known := append(append([]string(nil), attributes...), blocks...)
	for name, attr := range body.Attributes {
		switch {
		case contains(attributes, name):
		case contains(blocks, name):
			d.errorf(attr.NameRange, "Block expected", "%q is a block: write %s { ... } without an equals sign.", name, name)
		default:
			d.errorf(attr.NameRange, "Unknown setting", "There is no setting %q here.%s", name, didYouMean(name, known))
		}
	}
	for _, b := range body.Blocks {
		switch {
		case contains(blocks, b.Type):
		case contains(attributes, b.Type):
			d.errorf(b.TypeRange, "Setting expected", "%q is a setting: write %s = ... with an equals sign.", b.Type, b.Type)
		default:
			d.errorf(b.TypeRange, "Unknown block", "There is no block %q here.%s", b.Type, didYouMean(b.Type, known))
		}
	}
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	octetsType   = reflect.TypeFor[Octets]()
	domainType   = reflect.TypeFor[mail.Domain]()
	addressType  = reflect.TypeFor[mail.Address]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
)

// setValue converts what an expression gave; a single value stands for a list
// of one.
func setValue(target reflect.Value, value cty.Value) error {
	if value.IsNull() || !value.IsWhollyKnown() {
		return fmt.Errorf("has no value")
	}
	if target.Kind() == reflect.Slice && target.Type().Elem().Kind() != reflect.Uint8 {
		return setList(target, value)
	}
	switch target.Kind() {
	case reflect.Bool:
		if value.Type() != cty.Bool {
			return fmt.Errorf("must be true or false")
		}
		target.SetBool(value.True())
		return nil
	case reflect.Int, reflect.Int64:
		if value.Type() == cty.Number && target.Type() != durationType {
			n, accuracy := value.AsBigFloat().Int64()
			if accuracy != 0 {
				return fmt.Errorf("must be a whole number")
			}
			target.SetInt(n)
			return nil
		}
	}
	text, err := convert.Convert(value, cty.String)
	if err != nil {
		return fmt.Errorf("must be a single value")
	}
	return setText(target, text.AsString())
}

func setList(target reflect.Value, value cty.Value) error {
	elems := []cty.Value{value}
	if value.CanIterateElements() && !value.Type().IsMapType() && !value.Type().IsObjectType() {
		elems = value.AsValueSlice()
	}
	list := reflect.MakeSlice(target.Type(), len(elems), len(elems))
	for i, elem := range elems {
		if err := setValue(list.Index(i), elem); err != nil {
			return fmt.Errorf("element %d: %w", i+1, err)
		}
	}
	target.Set(list)
	return nil
}

// setText converts the file's notation of a value.
func setText(target reflect.Value, text string) error {
	switch target.Type() {
	case durationType:
		v, err := parseDuration(text)
		if err != nil {
			return err
		}
		target.SetInt(int64(v))
	case octetsType:
		v, err := parseOctets(text)
		if err != nil {
			return err
		}
		target.SetInt(int64(v))
	case domainType:
		v, err := mail.ParseDomain(text)
		if err != nil {
			return err
		}
		target.SetString(string(v))
	case addressType:
		v, err := mail.ParseAddress(text)
		if err != nil {
			return err
		}
		target.Set(reflect.ValueOf(v))
	case prefixType:
		v, err := parsePrefix(text)
		if err != nil {
			return err
		}
		target.Set(reflect.ValueOf(v))
	default:
		return setPlain(target, text)
	}
	return nil
}

func setPlain(target reflect.Value, text string) error {
	switch target.Kind() {
	case reflect.String:
		target.SetString(text)
	case reflect.Bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("must be true or false")
		}
		target.SetBool(v)
	case reflect.Int, reflect.Int64:
		v, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("must be a whole number, not %q", text)
		}
		target.SetInt(v)
	case reflect.Slice:
		parts := strings.Fields(text)
		list := reflect.MakeSlice(target.Type(), len(parts), len(parts))
		for i, part := range parts {
			if err := setText(list.Index(i), part); err != nil {
				return err
			}
		}
		target.Set(list)
	default:
		return fmt.Errorf("cannot hold %q", text)
	}
	return nil
}

// parseDuration reads Go's notation, and days ("5d") and weeks ("2w") as the
// queue's settings are usually given.
func parseDuration(text string) (time.Duration, error) {
	unit := map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if n := len(text); n > 1 && unit[text[n-1]] != 0 {
		if v, err := strconv.ParseInt(text[:n-1], 10, 32); err == nil && v >= 0 {
			return time.Duration(v) * unit[text[n-1]], nil
		}
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return 0, fmt.Errorf(`must be a time such as "300ms", "10s", "5m", "12h" or "5d", not %q`, text)
	}
	return v, nil
}

func parseOctets(text string) (Octets, error) {
	factor := int64(1)
	number := strings.TrimSpace(text)
	for _, unit := range []struct {
		suffix string
		factor int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}} {
		if rest, ok := strings.CutSuffix(number, unit.suffix); ok {
			number, factor = strings.TrimSpace(rest), unit.factor
			break
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v < 0 || v > (1<<62)/factor {
		return 0, fmt.Errorf(`must be a size such as 50000000, "50 MB" or "64 MiB", not %q`, text)
	}
	return Octets(v * factor), nil
}

// parsePrefix reads a network, or an address as the network of its own.
func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf(`must be a network such as "192.0.2.0/24" or "2001:db8::/32", not %q`, text)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits behind its mask; meant is perhaps %s", text, p.Masked())
	}
	if p.Addr().Is4In6() { // clients are known by their IPv4 address
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%s is wider than all IPv4 addresses", text)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}
