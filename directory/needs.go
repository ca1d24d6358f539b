package directory

// Needs is what a directory asks of its source, for whoever checks whether the
// source has it.
type Needs struct {
	Base DN
	// Searches are those that the mapping rests on: they should find something.
	Searches []NeededSearch
	// Attributes are what entries are asked for.
	Attributes []string
}

// NeededSearch is a search with what it is for.
type NeededSearch struct {
	What string
	Request
}

// Needs returns what the mapping asks for.
func (d *Directory) Needs() Needs {
	m := d.mapping
	n := Needs{Base: d.cfg.BaseDN, Attributes: distinct(append(append([]string{}, m.userAttributes...), m.groupAttributes...))}
	n.Searches = append(n.Searches, NeededSearch{"people (user_base, user_filter)", Request{Base: m.UserBase, Filter: m.user}})
	if m.GroupFilter != "" {
		n.Searches = append(n.Searches, NeededSearch{"groups (group_base, group_filter)", Request{Base: m.GroupBase, Filter: m.group}})
	}
	return n
}

// Needs returns what the table asks for: its base where that is fixed.
func (t *QueryTable) Needs() Needs {
	n := Needs{Attributes: t.attributes}
	if !t.baseVaries() {
		if base, ok := t.baseFor(&Key{}); ok {
			n.Base = base
		}
	}
	return n
}
