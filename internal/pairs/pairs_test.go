package pairs

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/testenv"
)

// sideBySide asks for the whole comparison, with Dovecot's own intervals of
// retry in it: 20 minutes and more.
var sideBySide = flag.String("side-by-side", "", "write the table of both pairs' results to this `file`; takes half an hour")

// result is how a scenario ended on a pair.
type result struct {
	scenario scenario
	facts    string
	err      error
	took     time.Duration
}

// patienceOfTheirs is above the five minutes after which dsync tries again.
var patienceOfTheirs = flag.Duration("their-patience", 330*time.Second, "how long Dovecot's pair may take to be in step again")

var (
	program     = flag.String("postern", "", "our `program`; empty: built for the test")
	seed        = flag.Uint64("seed", 1, "of the random work in TestHistories")
	chaosLength = flag.Duration("chaos", 20*time.Second, "how long TestHistories breaks things")
)

// runAll runs scenarios one after the other, each with an account of its own.
func runAll(t *testing.T, p, forgetful pair, list []scenario) []result {
	var all []result
	for i, s := range list {
		on := p
		if s.shortMemory {
			on = forgetful
		}
		r := result{scenario: s}
		t.Run(s.name, func(t *testing.T) {
			began := time.Now()
			r.facts, r.err = s.run(t, on, userName(i))
			r.took = time.Since(began)
			t.Logf("%s, %s, %s: %s %v (%v)", on.name(), s.name, s.what, r.facts, r.err, r.took)
		})
		all = append(all, r)
	}
	return all
}

func userName(n int) string { return fmt.Sprintf("user%02d@pairs.test", n) }

func allUsers() []string {
	list := make([]string, len(scenarios))
	for i := range list {
		list[i] = userName(i)
	}
	return list
}

func dovecotPairs(t *testing.T, wait time.Duration) (p, forgetful pair) {
	t.Helper()
	p = &dovecots{testenv.DovecotPair(t, testenv.DovecotPairOptions{Users: allUsers()}), wait}
	forgetful = &dovecots{testenv.DovecotPair(t, testenv.DovecotPairOptions{Users: allUsers(), ShortMemory: true}), wait}
	return p, forgetful
}

// The scenarios can see a loss: Dovecot's pair is known to have these.
func TestScenariosSeeLosses(t *testing.T) {
	t.Parallel()
	p := &dovecots{testenv.DovecotPair(t, testenv.DovecotPairOptions{Users: allUsers()}), 10 * time.Second}
	for i, s := range scenarios {
		if s.name != "M7" && s.name != "M8" {
			continue
		}
		if _, err := s.run(t, p, userName(i)); err == nil {
			t.Errorf("%s, %s: nothing lost", s.name, s.what)
		} else {
			t.Logf("%s: %v", s.name, err)
		}
	}
}

// built is our program, built once.
var built = sync.OnceValues(func() (string, error) {
	if *program != "" {
		return *program, nil
	}
	dir, err := os.MkdirTemp("", "pairs")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "postern")
	if out, err := exec.Command("go", "build", "-ldflags=-w", "-o", binary, "../../cmd/gateway").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := built(); *program == "" && err == nil {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

func ours(t testing.TB, durability string, users []string) *posterns {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return startPosterns(t, binary, durability, users)
}

// Our pair passes every scenario. Most of their time is waiting: a few pairs share
// them out.
func TestScenarios(t *testing.T) {
	t.Parallel()
	const pairs = 3
	for first := range pairs {
		var some []scenario
		for i := first; i < len(scenarios); i += pairs {
			some = append(some, scenarios[i])
		}
		t.Run(fmt.Sprint("pair ", first), func(t *testing.T) {
			t.Parallel()
			p := ours(t, "semi-sync", allUsers())
			for _, r := range runAll(t, p, p, some) {
				if r.err != nil {
					t.Errorf("%s, %s: %v", r.scenario.name, r.scenario.what, r.err)
				}
			}
		})
	}
}

// What clients were answered and shown holds, whatever happens to the nodes and
// to what joins them.
func TestHistories(t *testing.T) {
	t.Parallel()
	p := ours(t, "semi-sync", allUsers())
	p.openFront(t)
	if err := runChaos(t, p, userName(0), *seed, *chaosLength); err != nil {
		t.Errorf("seed %d: %v", *seed, err)
	}
}

func TestSideBySide(t *testing.T) {
	if *sideBySide == "" {
		return // takes half an hour: only when asked for
	}
	backlogMails, randomRuns, randomSteps = 5000, 18, 110
	dv, forgetful := dovecotPairs(t, *patienceOfTheirs)
	theirs := runAll(t, dv, forgetful, scenarios)
	p := ours(t, "semi-sync", allUsers())
	mine := runAll(t, p, p, scenarios)
	var b strings.Builder
	b.WriteString("| | what happens | Dovecot 2.3 | Postern |\n|---|---|---|---|\n")
	for i, r := range theirs {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.scenario.name, r.scenario.what, r.cell(), mine[i].cell())
	}
	if err := os.WriteFile(*sideBySide, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// cell is a result in a table.
func (r result) cell() string {
	verdict := "pass"
	if r.err != nil {
		verdict = "**fail**: " + strings.Join(strings.Fields(strings.ReplaceAll(fmt.Sprintf("%.160s", r.err), "|", "/")), " ")
	}
	if r.facts != "" {
		verdict += "; " + r.facts
	}
	return verdict
}
