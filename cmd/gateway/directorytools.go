package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/admin"
	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/directory/ldap"
	"github.com/postern-mail/postern/directory/ldif"
)

// directoryCommands are what the control socket answers about directories.
func (s *server) directoryCommands(c admin.Commands) {
	c["directory/status"] = s.replyDirectoryStatus
	c["directory/dump"] = s.replyDirectoryDump
	c["directory/accept"] = s.replyDirectoryAccept
	c["lookup"] = s.replyLookup
}

// replicaToolCommands are those that ask the running server how it knows people.
func replicaToolCommands() []*cobra.Command {
	status := &cobra.Command{
		Use: "status [NAME]", Short: "Tell how the directories, their servers and replicas do", Args: cobra.MaximumNArgs(1),
		Long: "Tells of each directory, or of the one of that name: how it is replicated, how old the replica is, what its servers\n" +
			"did, and which addresses two entries claim.",
		RunE: func(c *cobra.Command, args []string) error {
			values := flagArgs(c, "json")
			values["name"] = args
			return callServer(c, "directory/status", values)
		},
	}
	status.Flags().Bool("json", false, "one JSON object for each directory")
	return []*cobra.Command{
		status,
		{
			Use: "dump [NAME]", Short: "Print what a replica holds, as LDIF", Args: cobra.MaximumNArgs(1),
			Long: "Prints the entries that the server answers from: of a replica, or of a directory of kind ldif. Passwords are not\n" +
				"among them. The name may be left out where there is one directory.",
			RunE: func(c *cobra.Command, args []string) error {
				return callServer(c, "directory/dump", url.Values{"name": args})
			},
		},
		{
			Use: "accept NAME", Short: "Take over a replica from which many entries are gone", Args: cobra.ExactArgs(1),
			Long: "A refresh that would lose many entries waits, as a mistake in rights, base or filter looks like that; the old\n" +
				"entries are served meanwhile. This command says that the entries are meant to be gone.",
			RunE: func(c *cobra.Command, args []string) error {
				return callServer(c, "directory/accept", url.Values{"name": args})
			},
		},
	}
}

// directoriesNamed returns the names of the directories asked about: one, or
// all.
func (g *generation) directoriesNamed(args url.Values) ([]string, error) {
	name := args.Get("name")
	if name == "" {
		return slices.Sorted(maps.Keys(g.sources)), nil
	}
	if _, ok := g.sources[name]; !ok {
		return nil, fmt.Errorf("there is no directory %q; there are: %s", name, strings.Join(slices.Sorted(maps.Keys(g.sources)), " "))
	}
	return []string{name}, nil
}

// maxConflicts is how many addresses that two entries claim are told of.
const maxConflicts = 50

// directoryReport is how a directory does, in JSON.
type directoryReport struct {
	Name      string           `json:"directory"`
	Kind      string           `json:"kind"`
	Answers   bool             `json:"answers"`
	From      string           `json:"from,omitempty"`
	Replica   *replicaReport   `json:"replica,omitempty"`
	Servers   []serverReport   `json:"servers,omitempty"`
	Conflicts []conflictReport `json:"conflicts,omitempty"`
}

type replicaReport struct {
	Mode        string            `json:"mode"`
	Server      string            `json:"server,omitempty"`
	Ready       bool              `json:"ready"`
	Connected   bool              `json:"connected"`
	Refreshing  bool              `json:"refreshing,omitempty"`
	Generation  uint64            `json:"generation"`
	Entries     int               `json:"entries"`
	Octets      int64             `json:"octets"`
	Age         float64           `json:"age_seconds"`
	LastRefresh *time.Time        `json:"last_refresh,omitempty"`
	Refreshes   uint64            `json:"refreshes"`
	Changes     uint64            `json:"changes"`
	Reconnects  uint64            `json:"reconnects"`
	Error       string            `json:"error,omitempty"`
	ErrorAt     *time.Time        `json:"error_at,omitempty"`
	StoreError  string            `json:"store_error,omitempty"`
	Stored      bool              `json:"stored"`
	Quarantine  *quarantineReport `json:"quarantine,omitempty"`
}

type quarantineReport struct {
	Since  time.Time `json:"since"`
	Gone   int       `json:"gone"`
	Before int       `json:"before"`
	After  int       `json:"after"`
}

type serverReport struct {
	URI         string  `json:"uri"`
	State       string  `json:"state"`
	Median      float64 `json:"median_seconds"`
	P99         float64 `json:"p99_seconds"`
	Asked       uint64  `json:"asked"`
	Failed      uint64  `json:"failed"`
	Hedged      uint64  `json:"hedged"`
	Connections int     `json:"connections"`
}

type conflictReport struct {
	Address string   `json:"address"`
	Entries []string `json:"entries"`
}

// report looks at a directory.
func (s source) report(name, kind string) directoryReport {
	r := directoryReport{Name: name, Kind: kind, Answers: !s.Down(), From: s.Where(), Replica: s.replicaReport()}
	if s.client != nil {
		for _, st := range s.client.States() {
			r.Servers = append(r.Servers, asServerReport(st))
		}
	}
	if entries := s.entries(); entries != nil {
		for _, c := range s.Conflicts(entries, maxConflicts) {
			conflict := conflictReport{Address: c.Address.String()}
			for _, dn := range c.Entries {
				conflict.Entries = append(conflict.Entries, string(dn))
			}
			r.Conflicts = append(r.Conflicts, conflict)
		}
	}
	return r
}

func asServerReport(st ldap.ServerState) serverReport {
	return serverReport{st.URI, st.State, st.Median.Seconds(), st.P99.Seconds(), st.Asked, st.Failed, st.Hedged, st.Connections}
}

func (s source) replicaReport() *replicaReport {
	if s.replica == nil {
		return nil
	}
	st := s.replica.Status()
	r := &replicaReport{
		Mode: st.Mode, Server: st.Server, Ready: st.Ready, Connected: st.Connected, Refreshing: st.Refreshing, Generation: st.Generation,
		Entries: st.Entries, Octets: st.Octets, Age: st.Age.Seconds(), Refreshes: st.Refreshes, Changes: st.Changes, Reconnects: st.Reconnects,
		Error: st.Error, StoreError: st.StoreError, Stored: st.Stored,
	}
	if !st.LastRefresh.IsZero() {
		r.LastRefresh = &st.LastRefresh
	}
	if st.Error != "" {
		r.ErrorAt = &st.ErrorAt
	}
	if q := st.Quarantine; q != nil {
		r.Quarantine = &quarantineReport{q.Since, q.Gone, q.Before, q.After}
	}
	return r
}

// entries returns what a directory answers from; nil when its servers are asked
// each time.
func (s source) entries() iter.Seq[directory.Entry] {
	switch {
	case s.file != nil:
		return values(s.file.Tree().All())
	case s.replica != nil && s.replica.Entries() != nil:
		return values(s.replica.Entries().All())
	}
	return nil
}

func values[K, V any](pairs iter.Seq2[K, V]) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range pairs {
			if !yield(v) {
				return
			}
		}
	}
}

func (s *server) replyDirectoryStatus(_ context.Context, args url.Values, out io.Writer) error {
	g := s.current.Load()
	names, err := g.directoriesNamed(args)
	if err != nil {
		return err
	}
	lines := json.NewEncoder(out)
	for i, name := range names {
		r := g.sources[name].report(name, g.file.Directory(name).Kind)
		if wantsJSON(args) {
			err = lines.Encode(r)
		} else {
			if i > 0 {
				fmt.Fprintln(out)
			}
			err = r.tell(out)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tell prints a report for a person.
func (r directoryReport) tell(out io.Writer) error {
	table := newTable(out)
	state := "answers"
	if !r.Answers {
		state = "DOES NOT ANSWER"
	}
	fmt.Fprintf(table, "DIRECTORY %s\t%s, %s\n", r.Name, r.Kind, state)
	if r.From != "" {
		fmt.Fprintf(table, "answers from\t%s\n", r.From)
	}
	if r.Replica != nil {
		r.Replica.tell(table, r.Name)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(r.Servers) > 0 {
		fmt.Fprintln(table, "\nSERVER\tSTATE\tMEDIAN\tP99\tASKED\tFAILED\tHEDGED\tCONNECTIONS")
		for _, st := range r.Servers {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\n", st.URI, st.State, seconds(st.Median), seconds(st.P99), st.Asked, st.Failed, st.Hedged, st.Connections)
		}
	}
	if len(r.Conflicts) > 0 {
		fmt.Fprintln(table, "\nADDRESS OF SEVERAL\tENTRIES, NONE OF WHICH GETS ITS MAIL")
		for _, c := range r.Conflicts {
			fmt.Fprintf(table, "%s\t%s\n", c.Address, strings.Join(c.Entries, " | "))
		}
	}
	return table.Flush()
}

func (r *replicaReport) tell(out io.Writer, name string) {
	follows := cmp.Or(r.Server, "no server yet")
	switch {
	case r.Mode == "query":
		follows = "none: the servers offer nothing to follow"
	case r.Refreshing:
		follows += ", being read"
	case r.Connected:
		follows += ", followed"
	default:
		follows += ", NOT FOLLOWED"
	}
	fmt.Fprintf(out, "replica\t%s, %s\n", r.Mode, follows)
	if r.Ready {
		fmt.Fprintf(out, "content\t%d entries, %d octets, generation %d, %s old\n", r.Entries, r.Octets, r.Generation, seconds(r.Age).Round(time.Second))
		fmt.Fprintf(out, "refreshed\t%s; %d refresh(es), %d change(s), %d session(s) ended\n", r.LastRefresh.Format(time.RFC3339), r.Refreshes, r.Changes, r.Reconnects)
	}
	if r.Error != "" {
		fmt.Fprintf(out, "last error\t%s: %s\n", r.ErrorAt.Format(time.RFC3339), r.Error)
	}
	if r.StoreError != "" {
		fmt.Fprintf(out, "NOT STORED\t%s\n", r.StoreError)
	}
	if q := r.Quarantine; q != nil {
		fmt.Fprintf(out, "QUARANTINE\t%d of %d entries are gone since %s, %d would stay; the old ones are served. Is that meant? postern directory accept %s\n",
			q.Gone, q.Before, q.Since.Format(time.RFC3339), q.After, name)
	}
}

func (s *server) replyDirectoryDump(_ context.Context, args url.Values, out io.Writer) error {
	g := s.current.Load()
	names, err := g.directoriesNamed(args)
	if err != nil {
		return err
	}
	if len(names) != 1 {
		return fmt.Errorf("which directory? there are: %s", strings.Join(names, " "))
	}
	entries := g.sources[names[0]].entries()
	if entries == nil {
		return fmt.Errorf("directory %s has no replica: its servers are asked each time", names[0])
	}
	buffered := bufio.NewWriterSize(out, listBuffer)
	for e := range entries {
		if err := ldif.WriteEntry(buffered, e); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

func (s *server) replyDirectoryAccept(_ context.Context, args url.Values, out io.Writer) error {
	g := s.current.Load()
	names, err := g.directoriesNamed(args)
	if err != nil {
		return err
	}
	source := g.sources[names[0]]
	if len(names) != 1 || source.replica == nil {
		return fmt.Errorf("directory %s has no replica", strings.Join(names, " "))
	}
	n, err := source.replica.Accept()
	if err == nil {
		_, err = fmt.Fprintf(out, "directory %s: %d entries are served from now on\n", names[0], n)
	}
	return err
}
