package dmarcrpt

import (
	"encoding/xml"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/dailyreport"
	"github.com/postern-mail/postern/store/storetest"
)

// known is what the outside world knows: messages noted, those of them that were
// there for a flush since, and reports that went out, by domain.
type known struct {
	mu                  sync.Mutex
	noted, safe, report map[string]int64
}

func newKnown() *known {
	return &known{noted: map[string]int64{}, safe: map[string]int64{}, report: map[string]int64{}}
}

func (k *known) now() *known {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &known{noted: maps.Clone(k.noted), safe: maps.Clone(k.safe), report: maps.Clone(k.report)}
}

// told returns how many messages the report in a letter is about.
func told(t *testing.T, l letter) (domain string, messages int64) {
	t.Helper()
	_, _, text := attached(t, l.text)
	var read struct {
		Domain  string  `xml:"policy_published>domain"`
		Records []int64 `xml:"record>row>count"`
	}
	if err := xml.Unmarshal([]byte(text), &read); err != nil {
		t.Fatal(err)
	}
	for _, n := range read.Records {
		messages += n
	}
	return read.Domain, messages
}

type powerCut struct {
	left   *storetest.Machine
	before *known
}

var cutDomains = []string{"a.example", "b.example", "c.example"}

// early is the first day's report time of siteOn's host: the store of a machine
// has timers of its own, which makes long waits slow.
var early = day(0).Start().AddDate(30, 0, 1).Add(10 * time.Minute)

// earlyHost is a host whose reports on the first day in the bubble go out early.
func earlyHost() string {
	for n := 0; ; n++ {
		r := Reporter{cfg: Config{Submitter: dailyreport.Submitter{Hostname: fmt.Sprintf("gateway%d.example.net", n)}}}
		if r.cfg.ReportTime(dailyreport.DayOf(early) - 1).Before(early) {
			return r.cfg.Hostname
		}
	}
}

// siteOn returns a site on a machine's disk, whose domains all want reports.
func siteOn(t *testing.T, m *storetest.Machine) *site {
	t.Helper()
	s := &site{t: t, kv: &fullStore{Store: m.OpenStore(t)}, cfg: standard, txt: map[string]string{}}
	s.cfg.Hostname = earlyHost()
	for _, domain := range cutDomains {
		s.txt["_dmarc."+domain] = "v=DMARC1; p=none; rua=mailto:x@" + domain
	}
	s.start()
	return s
}

// TestPowerCuts counts for a day and reports, and cuts the power all the while.
// After each cut the reports still go out: with all that was written before,
// nothing that was never noted, and nothing is left behind.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	var cuts []powerCut
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(early.Add(-30 * time.Minute)))
		m, k := storetest.NewMachine(), newKnown()
		s := siteOn(t, m)
		defer func() { s.end() }()
		var mu sync.Mutex
		m.OnOp(func(n int) {
			before := k.now()
			for _, l := range s.sent() {
				domain, messages := told(t, l)
				before.report[domain] = messages
			}
			left := m.Cut(uint64(n))
			mu.Lock()
			defer mu.Unlock()
			cuts = append(cuts, powerCut{left, before})
		})
		for n := range 6 {
			for _, domain := range cutDomains[:1+n%3] {
				k.mu.Lock()
				k.noted[domain]++
				k.mu.Unlock()
				s.note(domain, fmt.Sprintf("192.0.2.%d", n%2))
			}
			time.Sleep(2 * dailyreport.Every)
			synctest.Wait()
			k.mu.Lock()
			k.safe = maps.Clone(k.noted)
			k.mu.Unlock()
		}
		time.Sleep(time.Until(early.Add(2 * dailyreport.Every)))
		synctest.Wait()
		m.OnOp(nil)
		if len(s.sent()) != len(cutDomains) {
			t.Errorf("%d reports without a power cut", len(s.sent()))
		}
	})
	if len(cuts) < 8 {
		t.Errorf("only %d cuts", len(cuts))
	}
	for _, cut := range cuts {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(time.Until(early.Add(time.Hour)))
			s := siteOn(t, cut.left)
			defer func() { s.end() }()
			time.Sleep(2 * dailyreport.Every)
			synctest.Wait()
			reported := maps.Clone(cut.before.report)
			for _, l := range s.sent() {
				domain, messages := told(t, l)
				reported[domain] = messages
				if !strings.Contains(l.text, "20000101."+domain) {
					t.Errorf("another report of %s:\n%s", domain, l.text)
				}
			}
			for _, domain := range cutDomains {
				if got := reported[domain]; got < cut.before.safe[domain] || got > cut.before.noted[domain] {
					t.Errorf("%s: %d messages reported, %d noted, %d of them written", domain, got, cut.before.noted[domain], cut.before.safe[domain])
				}
			}
			if left := s.entries(); len(left) != 0 {
				t.Errorf("left behind: %+v", left)
			}
		})
		if t.Failed() {
			return
		}
	}
}
