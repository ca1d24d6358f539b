package delivery

import (
	"maps"
	"slices"
)

// Targets names the targets there are, sorted.
func (r *Router) Targets() []string { return slices.Sorted(maps.Keys(r.transports)) }
