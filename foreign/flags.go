package foreign

import "slices"

// Side is one of the two servers.
type Side uint8

// The sides.
const (
	Left Side = iota
	Right
)

var sides = [2]Side{Left, Right}

// Other is the opposite side.
func (s Side) Other() Side { return 1 - s }

func (s Side) String() string { return [2]string{"left", "right"}[s] }

// pendingKeyword is on a message of ours from its APPEND until its UID is in the
// state.
const pendingKeyword = "$ReplPending"

// change is what a merge asks of one side.
type change struct{ add, remove []string }

func (c change) none() bool { return len(c.add) == 0 && len(c.remove) == 0 }

// merge decides each flag and keyword by itself: where the sides differ, one of
// them changed it since base, and that one is followed. keeps tells what a side
// can hold; a flag that a side must take and cannot stays undecided, so that its
// absence there is never taken for a removal. agreed is the new base.
func merge(base []string, flags [2][]string, keeps [2]func(string) bool) (agreed []string, todo [2]change) {
	for _, flag := range union(base, flags[Left], flags[Right]) {
		if flag == pendingKeyword {
			continue
		}
		was := slices.Contains(base, flag)
		is := [2]bool{slices.Contains(flags[Left], flag), slices.Contains(flags[Right], flag)}
		now := is[Left]
		if is[Left] != is[Right] {
			now = !was
			behind := Left
			if is[Left] == now {
				behind = Right
			}
			switch {
			case !now:
				todo[behind].remove = append(todo[behind].remove, flag)
			case keeps[behind](flag):
				todo[behind].add = append(todo[behind].add, flag)
			default:
				now = was
			}
		}
		if now {
			agreed = append(agreed, flag)
		}
	}
	return agreed, todo
}

// firstBase is what to merge two messages against that were never compared: what
// either has stays, but for \Deleted, which both must have.
func firstBase(flags [2][]string) []string {
	var base []string
	for _, flag := range union(nil, flags[Left], flags[Right]) {
		both := slices.Contains(flags[Left], flag) && slices.Contains(flags[Right], flag)
		if both || flag == `\Deleted` {
			base = append(base, flag)
		}
	}
	return base
}

func union(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

// without returns flags but one.
func without(flags []string, flag string) []string {
	return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return f == flag })
}

// missing returns those flags that has lacks.
func missing(flags, has []string) []string {
	return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return slices.Contains(has, f) })
}
