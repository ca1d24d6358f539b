package testenv

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// RspamdServer is a private rspamd without network, Redis and rules but those
// below: what it does with a message is what the message asks for.
//
//	X-Want: ACTION           the action, such as "add header" or "soft reject"
//	X-Want-Message: TEXT     the text that goes with it
//	X-Want-Symbol: OPTION    the symbol TEST_SYMBOL, which counts 1.5
//	X-Want-Subject: TEXT     the subject that "rewrite subject" gives
//	X-Want-Edits: yes        adds X-Added: one, removes X-Remove, changes the
//	                         reverse-path to changed@example.com and adds the
//	                         recipient carol@example.com
//
// The symbol METADATA has what rspamd was told of the message as options.
type RspamdServer struct {
	// URL is where it is asked by HTTP; Milter is the socket of its proxy in
	// milter mode.
	URL, Milter string
	Process     *Process
}

const rspamdRules = `
local function header(task, name) return task:get_header(name) end
rspamd_config:register_symbol{name = 'WANT', type = 'prefilter', callback = function(task)
  if header(task, 'X-Want-Subject') then task:set_metric_subject(header(task, 'X-Want-Subject')) end
  if header(task, 'X-Want-Edits') then
    task:set_milter_reply{
      add_headers = {['X-Added'] = 'one'}, remove_headers = {['X-Remove'] = 0},
      change_from = 'changed@example.com', add_rcpt = {'carol@example.com'},
    }
  end
  if header(task, 'X-Want') then
    task:set_pre_result{action = header(task, 'X-Want'), message = header(task, 'X-Want-Message'), module = 'test'}
  end
end}
rspamd_config:register_symbol{name = 'TEST_SYMBOL', type = 'normal', score = 1.5, callback = function(task)
  local option = header(task, 'X-Want-Symbol')
  if option then return true, 1.0, option end
end}
rspamd_config:register_symbol{name = 'METADATA', type = 'normal', score = 0, flags = 'nostat', callback = function(task)
  local all = {}
  local function note(what, value) if value then table.insert(all, what .. '=' .. tostring(value)) end end
  note('ip', task:get_from_ip()); note('helo', task:get_helo()); note('host', task:get_hostname()); note('user', task:get_user())
  note('queue', task:get_queue_id()); note('tls', task:get_request_header('TLS-Version'))
  local from = task:get_from('smtp'); if from and from[1] then note('from', from[1].addr) end
  for _, r in ipairs(task:get_recipients('smtp') or {}) do note('rcpt', r.addr) end
  return true, 1.0, all
end}
`

// Rspamd starts an rspamd in a private directory, and ends it after the test.
func Rspamd(t testing.TB) *RspamdServer {
	t.Helper()
	program := Program(t, "rspamd")
	dir := TempDir(t)
	s := &RspamdServer{Milter: filepath.Join(dir, "milter")}
	writeFile(t, filepath.Join(dir, "rules.lua"), []byte(rspamdRules), 0o644)
	writeFile(t, filepath.Join(dir, "tld"), []byte("com\nnet\norg\nexample\n"), 0o644)
	args := []string{"-f", "-c", filepath.Join(dir, "rspamd.conf")}
	if os.Geteuid() == 0 {
		args = append(args, "-i", "-u", "nobody", "-g", rspamdGroup(t, dir))
	}
	address := loopback(FreePort(t))
	s.URL = "http://" + address
	writeFile(t, filepath.Join(dir, "rspamd.conf"), []byte(s.config(dir, address)), 0o644)
	s.Process = Start(t, Command{Path: program, Args: args, Ready: s.ready})
	return s
}

// rspamdGroup gives the directory to the account that rspamd takes on, and
// returns its group.
func rspamdGroup(t testing.TB, dir string) string {
	t.Helper()
	account, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(account.Gid)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return group.Name
}

func (s *RspamdServer) ready(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/ping", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ping: %s", response.Status)
	}
	return DialReady("unix", s.Milter)(ctx)
}

func (s *RspamdServer) config(dir, address string) string {
	return fmt.Sprintf(`lua = "%[1]s/rules.lua";
options {
  pidfile = "%[1]s/pid";
  tempdir = "%[1]s";
  hs_cache_dir = "%[1]s";
  control_socket = "%[1]s/control mode=0600";
  url_tld = "%[1]s/tld";
  disable_hyperscan = true;
  filters = "";
  gtube_patterns = "all";
  local_addrs = [];
  dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }
}
logging { type = "console"; level = "notice"; color = false; }
actions { reject = 15; "add header" = 6; greylist = 4; quarantine = 800; discard = 900; }
worker "normal" { bind_socket = "%[2]s"; count = 1; task_timeout = 60s; }
worker "rspamd_proxy" {
  bind_socket = "%[3]s mode=0666";
  count = 1;
  milter = yes;
  timeout = 80s;
  upstream "local" { default = yes; hosts = "%[2]s"; }
}
`, dir, address, s.Milter)
}
