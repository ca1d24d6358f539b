package directory

// IndexedValue is an attribute value under which an index may find entries.
type IndexedValue struct {
	Attribute string // lower case
	Key       string // as IndexKey gives it
}

// RequiredValues returns values of which every matching entry must have at
// least one. It is false when f requires none, so that all entries must be
// looked at.
func RequiredValues(f Filter) (values []IndexedValue, ok bool) {
	switch f := f.(type) {
	case comparison:
		key := attributeKey(f.attribute)
		if f.operator != equalTo {
			return nil, false
		}
		return []IndexedValue{{key, IndexKey(key, f.value.literal)}}, true
	case conjunction:
		// Any part will do. One that names an object class finds too many
		// entries, so another is preferred.
		for _, part := range f {
			candidate, found := RequiredValues(part)
			if found && (!ok || namesClass(values)) {
				values, ok = candidate, true
			}
		}
		return values, ok
	case disjunction:
		for _, part := range f {
			candidate, found := RequiredValues(part)
			if !found {
				return nil, false
			}
			values = append(values, candidate...)
		}
		return values, true
	default:
		return nil, false
	}
}

func namesClass(values []IndexedValue) bool {
	for _, v := range values {
		if v.Attribute == "objectclass" {
			return true
		}
	}
	return false
}
