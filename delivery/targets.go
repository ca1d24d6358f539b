package delivery

import (
	"maps"
	"slices"
	"strings"
)

// Targets names the targets there are, sorted. Transports for our own use, whose
// names end with a colon, are none.
func (r *Router) Targets() []string {
	names := slices.Sorted(maps.Keys(r.transports))
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, ":") })
}
