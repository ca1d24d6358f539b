package maillog

import (
	"strconv"

	"github.com/postern-mail/postern/mail"
)

// maxSessions bounds those that are followed; of others less is told.
const maxSessions = 100_000

// session is what earlier events told of a session.
type session struct {
	client         string // its name
	logins, passed int
}

// followLocked takes in what e tells of its session, and completes e with what
// others told. It returns what is known up to e.
func (l *Log) followLocked(e *mail.Event) session {
	if e.Session == "" {
		return session{}
	}
	s, followed := l.sessions[e.Session]
	switch e.Kind {
	case mail.EventDisconnect:
		delete(l.sessions, e.Session)
		return s
	case mail.EventConnect:
		s = session{client: e.Client}
	case mail.EventAuth:
		if !followed { // or it might never end
			return s
		}
		if e.Client == "" {
			e.Client = s.client
		}
		switch e.Result {
		case "ok":
			s.logins, s.passed = s.logins+1, s.passed+1
		case "refused", "unknown":
			s.logins++
		}
	default:
		return s
	}
	if followed || len(l.sessions) < maxSessions {
		l.sessions[e.Session] = s
	}
	return s
}

// counts are the logins of a session as Postfix counts commands: those that
// went well, of how many when some did not.
func (s session) counts() string {
	switch {
	case s.logins == 0:
		return ""
	case s.passed == s.logins:
		return " auth=" + strconv.Itoa(s.passed)
	default:
		return " auth=" + strconv.Itoa(s.passed) + "/" + strconv.Itoa(s.logins)
	}
}
