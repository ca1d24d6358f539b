package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestBuildReportsEverything(t *testing.T) {
	t.Parallel()
	_, err := Build(Config{EarlyReject: true}, map[List][]Spec{
		ListClient:        words("permit_mynetwork reject_unlisted_recipient"),
		ListHelo:          words("reject permit_mynetworks"),
		ListSender:        words("check_sender_access reject_non_fqdn_sender(strict=yes) down(on_error=panic) warn_if_reject"),
		ListRecipient:     words("check_recipient_access(table=cidr:x) check_client_access(table=pcre:x) check_client_access(table=/nonexistent/x) permit_naked_ip_address"),
		List("recipents"): words("reject"),
	}, deps(&fixture{}))
	var mistakes Mistakes
	if !errors.As(err, &mistakes) {
		t.Fatalf("error %v, want Mistakes", err)
	}
	for _, want := range []string{
		`test.hcl:1:3: unknown restriction "permit_mynetwork" (did you mean permit_mynetworks?)`,
		`test.hcl:2:3: reject_unlisted_recipient is asked before the client has said what it needs`,
		`test.hcl:2:3: permit_mynetworks is never reached: reject before it always decides`,
		`test.hcl:1:3: check_sender_access needs one table`,
		`test.hcl:2:3: reject_non_fqdn_sender does not know the attribute "strict" (it takes code, text)`,
		`test.hcl:3:3: on_error of down is "panic" (use defer, defer_if_permit, dunno, hold, shutdown)`,
		`test.hcl:4:3: warn_if_reject stands at the end of its list`,
		`test.hcl:1:3: check_recipient_access looks for mail addresses, which a cidr table cannot hold`,
		`test.hcl:2:3: stat x: no such file`,
		`test.hcl:3:3: stat /nonexistent/x`,
		`test.hcl:4:3: unknown restriction "permit_naked_ip_address" (use permit_mynetworks)`,
		`test.hcl:1:3: unknown restriction list "recipents" (did you mean recipient?)`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if len(mistakes) != 12 {
		t.Errorf("%d mistakes, want 12:\n%v", len(mistakes), err)
	}
}

func TestBuildRefusesAnOpenRelay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		lists map[List]string
		open  bool
	}{
		{"default", map[List]string{}, false},
		{"empty relay list", map[List]string{ListRelay: ""}, true},
		{"no refusal", map[List]string{ListRelay: "permit_mynetworks permit_authenticated", ListRecipient: "reject_unlisted_recipient"}, true},
		{"only a warning", map[List]string{ListRelay: "warn_if_reject reject_unauth_destination"}, true},
		{"in another list", map[List]string{ListRelay: "", ListClient: "reject_unauth_destination"}, true},
		{"recipient list", map[List]string{ListRelay: "permit", ListRecipient: "reject_unauth_destination"}, false},
		{"defer_unauth_destination", map[List]string{ListRelay: "defer_unauth_destination"}, false},
		{"reject", map[List]string{ListRelay: "permit_mynetworks reject"}, false},
		{"defer", map[List]string{ListRelay: "defer"}, false},
		{"defer_if_permit", map[List]string{ListRelay: "defer_if_permit"}, false},
		{"upper case", map[List]string{ListRelay: "Reject_Unauth_Destination"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lists := map[List][]Spec{}
			for name, list := range tt.lists {
				lists[name] = words(list)
			}
			_, err := Build(Config{}, lists, deps(&fixture{}))
			if open := err != nil && strings.Contains(err.Error(), "anybody could relay"); open != tt.open || (err != nil) != tt.open {
				t.Errorf("error %v, want one: %t", err, tt.open)
			}
		})
	}
}

func TestBuildNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	d := deps(&fixture{})
	d.Recipients, d.Owners, d.Resolver = nil, nil, nil
	_, err := Build(Config{}, map[List][]Spec{ListSender: words("reject_sender_login_mismatch reject_unknown_sender_domain")}, d)
	for _, want := range []string{
		"reject_unlisted_recipient needs a directory of recipients",
		"reject_sender_login_mismatch needs a directory of sender addresses",
		"reject_unknown_sender_domain needs a DNS resolver",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if _, err := Build(Config{}, nil, Deps{}); err == nil {
		t.Error("Build without domains, logger and audit")
	}
}

func TestChainsShareMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	for range 2 {
		d := deps(&fixture{})
		d.Metrics = registry
		chain, err := Build(Config{}, nil, d)
		if err != nil {
			t.Fatal(err)
		}
		chain.Session().Evaluate(t.Context(), transaction("", "nobody@example.com"))
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if m.GetCounter().GetValue() == 2 {
			return
		}
	}
	t.Errorf("no counter stands at 2: %v", families)
}

func TestNames(t *testing.T) {
	t.Parallel()
	names := Names()
	for _, want := range []string{"permit_mynetworks", "reject_unauth_destination", "check_recipient_access", "warn_if_reject"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for alias, name := range aliases {
		if !slices.Contains(names, name) {
			t.Errorf("%s stands for %s, which does not exist", alias, name)
		}
	}
}
