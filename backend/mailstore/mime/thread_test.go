package mime

import (
	"strings"
	"testing"
)

func TestThreadRoot(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"": "", "Subject: x\n": "",
		"Message-ID: <a@b>\n":                                                    "a@b",
		"Message-ID: <c@b>\nIn-Reply-To: <b@b>\n":                                "b@b",
		"Message-ID: <c@b>\nIn-Reply-To: <b@b>\nReferences: <a@b>\n <b@b>\n":     "a@b",
		"References:\n\t<a\n @b> <c@d>\n":                                        "a@b",
		"References: junk <> <x@y>\n":                                            "x@y",
		"References: none\nMessage-ID: <a@b>\n":                                  "a@b",
		"In-Reply-To: Your message of Monday <a@b>\nMessage-ID: <c@d>\n":         "a@b",
		"Message-ID: <broken\nIn-Reply-To: <<x@y>\n":                             "x@y",
		"Message-ID: a@b\n":                                                      "",
		"REFERENCES: <A@b>\n":                                                    "A@b",
		"References: <" + strings.Repeat("x", 2000) + "@y>\nMessage-ID: <a@b>\n": strings.Repeat("x", 2000) + "@y",
	} {
		if got := string(ThreadRoot([]byte(strings.ReplaceAll(header, "\n", "\r\n")))); got != want {
			t.Errorf("%.80q: got %.40q, want %.40q", header, got, want)
		}
	}
}
