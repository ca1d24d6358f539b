package process

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/postern-mail/postern/authn/nss"
)

// nsswitch is the configuration of the name service switch.
const nsswitch = "/etc/nsswitch.conf"

// users asks each source of the name service switch for itself, in workers of
// its own: the C library's answer over all of them does not tell a source that
// did not answer from one that knows nobody.
type users struct {
	cfg Config
	log hclog.Logger

	mu    sync.Mutex
	pools map[string]*pool // by source
}

// maxSources bounds the pools: nsswitch.conf names a handful.
const maxSources = 16

func newUsers(cfg Config, log hclog.Logger) *users {
	return &users{cfg: cfg, log: log, pools: make(map[string]*pool)}
}

// source is one source of a database of the switch.
type source struct {
	name string
	last bool // "[NOTFOUND=return]" follows: who is not there is nowhere
}

// sources lists whom to ask. The file is read for every question, so that a
// change needs no restart; the C library reads it as often.
func (u *users) sources(kind nss.Kind) ([]source, error) {
	if len(u.cfg.UserSources) > 0 {
		var list []source
		for _, name := range u.cfg.UserSources {
			list = append(list, source{name: name})
		}
		return list, nil
	}
	text, err := os.ReadFile(nsswitch)
	if os.IsNotExist(err) {
		return []source{{name: "files"}}, nil // the C library's default
	}
	if err != nil {
		return nil, err
	}
	database := "passwd"
	if kind == nss.Group {
		database = "group"
	}
	return parseSources(string(text), database), nil
}

// parseSources reads the line of a database in nsswitch.conf(5). Of its actions
// only the end of the search after NOTFOUND counts: what the others say about
// sources that do not answer is what is done better here.
func parseSources(text, database string) []source {
	var list []source
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		name, rest, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) != database {
			continue
		}
		rest = strings.NewReplacer("[", " [", "]", "] ").Replace(rest)
		inAction := false
		for _, word := range strings.Fields(rest) {
			begins := strings.HasPrefix(word, "[")
			if begins || inAction {
				action := strings.ToLower(strings.Trim(word, "[]"))
				if action == "notfound=return" && len(list) > 0 {
					list[len(list)-1].last = true
				}
				inAction = !strings.HasSuffix(word, "]")
				continue
			}
			if len(list) < maxSources {
				list = append(list, source{name: word})
			}
		}
		break
	}
	if len(list) == 0 {
		return []source{{name: "files"}}
	}
	return list
}

// ask puts a question to the sources in order. Found wins; a source that did
// not answer makes it unknown unless another one knows the name.
func (u *users) ask(ctx context.Context, message []byte) nss.Answer {
	var question nss.Question
	if err := question.UnmarshalBinary(message); err != nil {
		return nss.Answer{Detail: clip(err.Error())}
	}
	sources, err := u.sources(question.Kind)
	if err != nil {
		return nss.Answer{Detail: clip(err.Error())}
	}
	var silent []string
	for _, source := range sources {
		answer := u.askSource(ctx, source.name, message)
		switch {
		case answer.Outcome == nss.Found:
			return answer
		case answer.Outcome == nss.Unknown:
			silent = append(silent, source.name+": "+answer.Detail)
		case source.last && len(silent) == 0:
			return answer
		}
	}
	if len(silent) > 0 {
		u.log.Warn("a source of the name service switch did not answer", "name", question.Name, "err", strings.Join(silent, "; "))
		return nss.Answer{Detail: clip("no answer from " + strings.Join(silent, "; "))}
	}
	return nss.Answer{Outcome: nss.Absent}
}

func (u *users) askSource(ctx context.Context, source string, message []byte) nss.Answer {
	var answer nss.Answer
	reply, err := u.pool(source).ask(ctx, message)
	if err == nil {
		err = answer.UnmarshalBinary(reply)
	}
	if err != nil {
		return nss.Answer{Detail: clip(err.Error())}
	}
	return answer
}

// pool returns the workers of a source.
func (u *users) pool(source string) *pool {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := u.pools[source]
	if p == nil {
		p = newPool(u.cfg, work{kind: workUsers, args: []string{"--users-from=" + source}, most: nss.MaxMessageOctets}, u.log)
		u.pools[source] = p
	}
	return p
}

func (u *users) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range u.pools {
		p.close()
	}
}

// user answers a question about users and groups on conn.
func (s *Server) user(ctx context.Context, conn *net.UnixConn, message []byte) error {
	answer := nss.Answer{Detail: "local users are not served here: the helper was started without --users"}
	if s.users != nil {
		answer = s.users.ask(ctx, message)
	}
	reply, err := answer.AppendBinary(nil)
	if err != nil {
		reply, err = nss.Answer{Detail: err.Error()}.AppendBinary(nil)
	}
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return write(conn, reply)
}

// workOnUsers is what a worker does, which asks one source alone.
func workOnUsers(sources []string) (func(message []byte) ([]byte, error), error) {
	if len(sources) != 1 {
		return nil, fmt.Errorf("auth-helper worker: %d sources of users instead of one", len(sources))
	}
	if err := chooseSource(sources[0]); err != nil {
		return nil, err
	}
	return func(message []byte) ([]byte, error) {
		var question nss.Question
		if err := question.UnmarshalBinary(message); err != nil {
			return nss.Answer{Detail: clip(err.Error())}.AppendBinary(nil)
		}
		answer := lookUp(question)
		if answer.Outcome == nss.Found && !plainFields(answer) {
			answer = nss.Answer{Detail: "entry with a colon, a comma in a name or a line end in it"}
		}
		reply, err := answer.AppendBinary(nil)
		if err != nil {
			return nss.Answer{Detail: err.Error()}.AppendBinary(nil)
		}
		return reply, nil
	}, nil
}

// plainFields holds what entries cannot have, whatever the source.
func plainFields(a nss.Answer) bool {
	return nss.IsName(a.Name) && !strings.ContainsAny(a.Home+a.Shell+a.Comment, "\n\x00") &&
		!slices.ContainsFunc(a.Members, func(m string) bool { return strings.Contains(m, ",") })
}
