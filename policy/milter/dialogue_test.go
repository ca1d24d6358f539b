package milter

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/mail"
	"github.com/postern-mail/postern/policy"
	"github.com/postern-mail/postern/status"
)

// agree returns the options of a filter.
func agree(version uint32, acts actions, protocol steps, more ...string) func([]byte) []byte {
	return func([]byte) []byte {
		return append(negotiateReply(version, uint32(acts), uint32(protocol)), strings.Join(more, "")...)
	}
}

const allActions = actAddHeaders | actChangeBody | actAddRcpt | actDeleteRcpt | actChangeHeaders | actQuarantine | actChangeFrom | actAddRcptArgs

func expectHeard(t *testing.T, f *filter, want []string) {
	t.Helper()
	if got := f.all(); !slices.Equal(got, want) {
		t.Errorf("the filter heard\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDialogue(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	d := f.milter(nil).dialogue(t)
	if v := d.all(); v.Action != mail.Dunno || v.Detail != "" || len(v.Edits) > 0 {
		t.Errorf("verdict %+v", v)
	}
	d.a.Close()
	f.waitFor("K")
	expectHeard(t, f, []string{
		"O",
		"D Cj|mx.example.com|{daemon_name}|mx.example.com|{daemon_addr}|198.51.100.1|{daemon_port}|25|v|Postern|_|client.example [192.0.2.7]|{client_addr}|192.0.2.7|{client_name}|client.example|{client_port}|4711|{client_ptr}|client.example",
		"C client.example|4\x12\x67192.0.2.7",
		"H helo.example",
		"D M{mail_addr}|a@sender.example|{mail_host}|sender.example|{mail_mailer}|smtp",
		"M <a@sender.example>|SIZE=100|BODY=8BITMIME",
		"D Ri|Q1|{rcpt_addr}|b@example.com|{rcpt_host}|example.com|{rcpt_mailer}|smtp",
		"R <b@example.com>|NOTIFY=FAILURE,DELAY|ORCPT=rfc822;b+2Bx@example.com",
		"D Ti|Q1", "T",
		"L From|a@sender.example",
		"L Subject|one\n two",
		"L X-Tag|1", "L X-Tag|2",
		"D Ni|Q1", "N",
		"B Hello\r\n",
		"D Ei|Q1", "E",
		"K",
	})
}

func TestMacrosOfLoginAndTLS(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	d := f.milter(func(c *Config) { c.Macros = map[string]string{"daemon_name": "ORIGINATING"} }).dialogue(t)
	d.tx.Client.TLS = &mail.TLSInfo{Version: "TLSv1.3", Cipher: tls.CipherSuiteName(tls.TLS_AES_256_GCM_SHA384), PeerCN: "laptop"}
	d.tx.Client.Identity = &mail.Identity{Authentication: "alice", Authorization: "shared", Mechanism: "PLAIN"}
	d.all()
	for _, want := range []string{
		"D H{tls_version}|TLSv1.3|{cipher}|TLS_AES_256_GCM_SHA384|{cipher_bits}|256|{cert_subject}|laptop",
		"D M{auth_type}|PLAIN|{auth_authen}|alice|{auth_author}|shared|{mail_addr}|a@sender.example|{mail_host}|sender.example|{mail_mailer}|smtp",
	} {
		if !f.has(want) {
			t.Errorf("%q was not heard in %q", want, f.all())
		}
	}
	if !strings.Contains(f.all()[1], "{daemon_name}|ORIGINATING") {
		t.Errorf("the configured macro is missing: %q", f.all()[1])
	}
}

// A filter may ask for other macros (SETSYMLIST), stage by stage.
func TestMacrosAskedFor(t *testing.T) {
	t.Parallel()
	lists := string(binary.BigEndian.AppendUint32(nil, uint32(stageConnect))) + "j {client_addr}\x00" +
		string(binary.BigEndian.AppendUint32(nil, uint32(stageMail))) + "\x00"
	f := newFilter(t, &filter{options: agree(6, allActions|actSetMacros, 0, lists)})
	f.milter(nil).dialogue(t).all()
	if !f.has("D Cj|mx.example.com|{client_addr}|192.0.2.7") {
		t.Errorf("heard %q", f.all())
	}
	if slices.ContainsFunc(f.all(), func(s string) bool { return strings.HasPrefix(s, "D M") }) {
		t.Errorf("macros at MAIL, though none were asked for: %q", f.all())
	}
	if !f.has("D Ti|Q1") {
		t.Errorf("the default macros of other stages are gone: %q", f.all())
	}
}

func TestClientsAsTheyAreShown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		remote, hostname string
		asUnix           bool
		want             string
	}{
		"unknown name":   {"192.0.2.7:1", "", false, "C unknown|4\x00\x01192.0.2.7"},
		"IPv6":           {"[2001:db8::7]:258", "six.example", false, "C six.example|6\x01\x022001:db8::7"},
		"IPv4 in IPv6":   {"[::ffff:192.0.2.7]:258", "", false, "C unknown|4\x01\x02192.0.2.7"},
		"local":          {"", "", false, "C localhost|4||127.0.0.1"},
		"local, as unix": {"", "", true, "C localhost|L||local"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFilter(t, &filter{})
			d := f.milter(func(cfg *Config) { cfg.LocalAsUnix = c.asUnix }).dialogue(t)
			d.tx.Client.Remote, d.tx.Client.Hostname = netip.AddrPort{}, c.hostname
			if c.remote != "" {
				d.tx.Client.Remote = netip.MustParseAddrPort(c.remote)
			}
			d.all()
			if want := strings.ReplaceAll(c.want, "\x00", "|"); !f.has(want) && !f.has(c.want) {
				t.Errorf("want %q in %q", c.want, f.all())
			}
		})
	}
}

// What a filter does without is not sent, and replies it does not give are not
// waited for.
func TestStepsLeftOut(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{options: agree(6, allActions, noConnect|noHelo|noMail|noRcpt|noBody|noHeaders|noEOH|noData)})
	d := f.milter(nil).dialogue(t)
	d.all()
	for _, line := range f.all() {
		if strings.IndexByte("CHMRTLNB", line[0]) >= 0 {
			t.Errorf("%q was sent", line)
		}
	}
	if !f.has("E") || !f.has("D Ti|Q1") {
		t.Errorf("the end or the macros are missing: %q", f.all())
	}
}

func TestSilentFilter(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{
		silent:  "CHMRTLNB",
		options: agree(6, allActions, silentConnect|silentHelo|silentMail|silentRcpt|silentData|silentHeader|silentEOH|silentBody),
	})
	d := f.milter(nil).dialogue(t)
	if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("verdict %+v", v)
	}
	if !f.has("B Hello\r\n") {
		t.Errorf("heard %q", f.all())
	}
}

func TestLeadingSpace(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{
		options: agree(6, allActions, leadingSpace),
		says:    map[byte][][]string{cmdEOM: {{say(replyAddHeader, "X-New\x00 spaced\x00"), say(replyAddHeader, "X-Tight\x00tight\x00"), "c"}}},
	})
	d := f.milter(nil).dialogue(t)
	d.all()
	if !f.has("L From| a@sender.example") {
		t.Errorf("heard %q", f.all())
	}
	if got := d.message.fields[5:]; !slices.Equal(got, []mail.Field{"X-New: spaced", "X-Tight:tight"}) {
		t.Errorf("fields %q", got)
	}
}

func TestOldVersions(t *testing.T) {
	t.Parallel()
	for _, version := range []uint32{2, 3, 4, 5} {
		f := newFilter(t, &filter{options: agree(version, actAddHeaders, 0)})
		d := f.milter(nil).dialogue(t)
		if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
			t.Errorf("version %d: verdict %+v", version, v)
		}
		if f.has("T") != (version >= 4) {
			t.Errorf("version %d: heard %q", version, f.all())
		}
		d.a.Close()
		f.waitFor("Q") // such a filter cannot begin anew
	}
}

func TestOfferOfAnOldProtocol(t *testing.T) {
	t.Parallel()
	offers := make(chan []byte, 1)
	f := newFilter(t, &filter{options: func(offer []byte) []byte {
		offers <- slices.Clone(offer)
		return negotiateReply(2, 0x3f, 0)
	}})
	f.milter(func(c *Config) { c.Protocol = 2 }).dialogue(t).all()
	if got := <-offers; !slices.Equal(got, negotiateReply(2, 0x3f, 0x7f)) {
		t.Errorf("offered %x", got)
	}
}

func TestBodyInChunks(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcde\n", 10_000)
	f := newFilter(t, &filter{})
	d := f.milter(nil).dialogue(t)
	d.message.body = body
	d.all()
	var sizes []string
	for _, line := range f.all() {
		if line[0] == cmdBody {
			sizes = append(sizes, line[strings.LastIndexByte(line, '('):])
		}
	}
	if !slices.Equal(sizes, []string{"(65535)", "(65535)", "(28930)"}) {
		t.Errorf("chunks %q", sizes)
	}
}

// Only filters that ask for them hear of recipients that were refused, and what
// they say to that counts for nothing.
func TestRefusedRecipients(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{false, true} {
		o := steps(0)
		if asked {
			o = refusedRcpt
		}
		f := newFilter(t, &filter{options: agree(6, allActions, o), says: map[byte][][]string{cmdRcpt: {{"c"}, {"r"}}}})
		d := f.milter(nil).dialogue(t)
		d.step(mail.PhaseConnect)
		d.step(mail.PhaseHelo)
		d.step(mail.PhaseMail)
		d.step(mail.PhaseRecipient)
		d.tx.Recipient = &mail.Recipient{Address: address("nobody@example.com")}
		d.a.(policy.Witness).Refused(context.Background(), &d.tx, status.NoSuchUser.Reply())
		d.tx.Recipient = nil
		if v := d.content(); v.Action != mail.Dunno || v.Detail != "" {
			t.Errorf("verdict %+v", v)
		}
		macros := f.has("D R{rcpt_addr}|Address unknown|{rcpt_host}|5.1.1|{rcpt_mailer}|error")
		if told := f.has("R <nobody@example.com>"); told != asked || macros != asked {
			t.Errorf("asked %v: heard %q", asked, f.all())
		}
	}
}

func TestSkip(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{options: agree(6, allActions, maySkip), says: map[byte][][]string{cmdBody: {{"s"}}}})
	d := f.milter(nil).dialogue(t)
	d.message.body = strings.Repeat("x", 3*maxChunk)
	if v := d.all(); v.Action != mail.Dunno || v.Detail != "" {
		t.Errorf("verdict %+v", v)
	}
	if n := strings.Count(strings.Join(f.all(), "\n"), "\nB"); n != 1 || !f.has("E") {
		t.Errorf("heard %q", f.all())
	}
}

// A field that no packet can hold is cut, not refused, and a NUL in it begins
// nothing new.
func TestHugeField(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	d := f.milter(nil).dialogue(t)
	d.message.fields = append(d.message.fields, mail.Field("X-Long: "+strings.Repeat("x", 100_000)), "X-Nul: a\x00b")
	d.all()
	if !f.has("L X-Long|xxxxxxxxxxxxx...(65535)") || !f.has("L X-Nul|ab") {
		t.Errorf("heard %q", f.all())
	}
	larger := newFilter(t, &filter{options: agree(6, allActions, data256K)})
	d = larger.milter(nil).dialogue(t)
	d.message.fields = append(d.message.fields, mail.Field("X-Long: "+strings.Repeat("x", 100_000)))
	d.all()
	if !larger.has("L X-Long|xxxxxxxxxxxxx...(100008)") {
		t.Errorf("heard %q", larger.all())
	}
}

// A second EHLO, after STARTTLS, is told again; a second message is another
// transaction on the same connection.
func TestSecondHeloAndMessage(t *testing.T) {
	t.Parallel()
	f := newFilter(t, &filter{})
	d := f.milter(nil).dialogue(t)
	d.all()
	d.step(mail.PhaseHelo)
	d.transaction()
	d.step(mail.PhaseMail)
	d.a.Abort()
	d.transaction()
	d.a.Close()
	f.waitFor("K")
	var got strings.Builder
	for _, line := range f.all() {
		if line[0] != 'D' && line[0] != 'L' {
			got.WriteByte(line[0])
		}
	}
	if want := "OCHMRTNBE" + "HMRTNBE" + "MA" + "MRTNBE" + "K"; got.String() != want || f.dialled() != 1 {
		t.Errorf("heard %s on %d connections, want %s", got.String(), f.dialled(), want)
	}
}
