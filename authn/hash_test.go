package authn

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

func newHasher(t testing.TB, cfg HashConfig) *Hasher {
	t.Helper()
	h, err := NewHasher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// The hashes were made by libxcrypt, OpenSSL, slappasswd, doveadm and Python's
// hashlib, as each row says: not by the code under test.
func TestHashesOfOthers(t *testing.T) {
	t.Parallel()
	const password = "correct horse"
	tests := []struct{ name, scheme, password, stored string }{
		{"libxcrypt sha512-crypt", "sha512-crypt", password, "$6$yg4oWTGrevRMDYOr$80N3LucraaicEUem1m7O2fRgUe0fbBcAljxatU4JyhjhtVMERRjUBS5h/jVvOU3s0tkPYRoMEy7n5FOM4yYLC/"},
		{"libxcrypt sha512-crypt with rounds", "sha512-crypt", password, "$6$rounds=10000$35co378nvzAwHf7t$095Ilxr9Bu8ws8spAU4s5ernEawz5PSLNnZzCgixSWBLnN28kC4TzgLEanftFo39WzgvgSxTWQ0.drgCP44F3/"},
		{"libxcrypt sha512-crypt, short salt", "sha512-crypt", password, "$6$ab$taQi2R/p.00nDn/0OiJ.5VXxxXle4RnNFdp1MRTAv1YDfnWjTzvJxb43j8XusV1GVxGhgSwzDrEJhwBIxUw.Q/"},
		{"libxcrypt sha512-crypt, short salt with rounds", "sha512-crypt", password, "$6$rounds=1000$x$EAPSjhFqPlx9TpztLdCdYhg/73lTq3uiBQstWvjpM4xsN1s4zOSEnQODN7weryBRYTrO7uOlVNKK6v93iPd9c0"},
		{"libxcrypt sha512-crypt, 200 octets of UTF-8", "sha512-crypt", strings.Repeat("é", 100), "$6$saltsalt$eyfpfP6cWnYxtyig0DMhHWHFApQ5EWuLyfI0.CtH/ozzcYA2WmKN/OojY9KdICsnB3kA0JiCRUsbezXoi8cf40"},
		{"openssl sha512-crypt in userPassword", "sha512-crypt", password, "{CRYPT}$6$GikTT4it1maSOSFv$WmJnD10NLjEr4qkzqsdatfQ.XHD3/sogkOuwe/lfxu88TbU7ZFXiwbv4dVjOlh9HFKiJgkDuOWM8P.5iCHWna0"},
		{"doveadm SHA512-CRYPT", "sha512-crypt", password, "{SHA512-CRYPT}$6$GlNyeJhMqW2xwK16$4GS71ysQV7hekGNjfTJTqDINNY30jtuS4zQhw3LB3fzYUxlOP7vndvrdOmJhqXTl1EcozxbQ8pHYC5slLEeD9/"},
		{"libxcrypt sha256-crypt", "sha256-crypt", password, "$5$/IjTEvkmBFfG00g/$15ppxiXXpEI6UpZmdW6mMdGSA20RiH28D0z1FKnEKL."},
		{"libxcrypt sha256-crypt with rounds", "sha256-crypt", password, "$5$rounds=20000$OAjtfSKaJ.ka09OL$KHlC6EQAFQ5SpsVr3M2y8oMKyQfOjXxmbsJlZ9M1gc9"},
		{"libxcrypt bcrypt 2b", "bcrypt", password, "$2b$05$zcTEuB8xaIvbeQaiUj4UvO2TUD1.2JDyurP/iDEzsTQbMWRB5CXN6"},
		{"libxcrypt bcrypt 2a", "bcrypt", password, "$2a$04$jc.beuLT3ZTXejfIFFDKH.918yaDTgHh.2IqAGzh3Sca8tRE1gyDG"},
		{"libxcrypt bcrypt 2y", "bcrypt", password, "$2y$06$TiTf7UIaGDOFm2NDz9.EEOPZ1Wx4x/FxV7LfLajODvLqUdMxpprzq"},
		{"libxcrypt bcrypt of 80 octets", "bcrypt", strings.Repeat("x", 80), "$2b$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i"},
		{"doveadm BLF-CRYPT", "bcrypt", password, "{BLF-CRYPT}$2y$05$BxyChskO97.vp72acmkbuuuOclrj9eaD6.i.yIPBFdK6WZ4pVAU7m"},
		{"libxcrypt yescrypt j9T", "yescrypt", password, "$y$j9T$Rn1t0CUNbFuUvLJDNBpHp/$UYqx51FSLgUMNO1diQnXAZ2ysqxzTqMs/0T65owjKU3"},
		{"libxcrypt yescrypt j75", "yescrypt", password, "$y$j75$gfaisvruBh1P.B01ORbJy.$QQ1GCaEHs6GapThpsqu3a9H6ewmIRHUPpvQkaRDemL5"},
		{"libxcrypt yescrypt j85 in userPassword", "yescrypt", password, "{crypt}$y$j85$9.KhMvqFxtif8skSNb31O0$2dI/UJyk43DzdygFuFhR3B1yCZdx7gFbQ2m9B6TCWzB"},
		{"libxcrypt yescrypt of UTF-8", "yescrypt", "пароль", "$y$j75$XhudNLZiVTCSWQ1LfyHmz0$pRb9GpLFAqSHYZ7GfymOd9KCADpogvNOv5YSnyx8yu/"},
		{"slappasswd argon2i", "argon2i", password, "{ARGON2}$argon2i$v=19$m=4096,t=3,p=1$fSgZNAB4P1xrU2fBOagy4g$AG/Fq47Gr+H0B6QXJiu8VnSf9HfXt6qADfwiM+7hW9s"},
		{"doveadm ARGON2ID", "argon2id", password, "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$6381DrDfOoRtf6vdMELR4g$+lOEX5nE+lmXp2famUGXV0rs00lxKx5NYhmW7wpYzd8"},
		{"slappasswd SSHA", "ssha", password, "{SSHA}YSIUok7GQpd53zppUfwyAKAa9vVv9JcZ"},
		{"slappasswd SHA", "sha", password, "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A="},
		{"slappasswd SSHA256", "ssha256", password, "{SSHA256}c7mYqp1FwPCVvUMf8JDXzjj1QUj38ta1nMw+NovJZkugpvOLXdyeSA=="},
		{"doveadm SSHA256, salt of 4", "ssha256", password, "{ssha256}1bwmur/z/879Sm0MBvE04T0eUWFANVoMX48vFghXE+MaDoJz"},
		{"slappasswd SSHA384", "ssha384", password, "{SSHA384}7EXEltrYzZ1uUNoAnJEORjcRmlZ1uoUGo5+hVLWgE3/Xe8YWFzlXvEiT5oPUDOO6apoMYazvRbk="},
		{"slappasswd SSHA512", "ssha512", password, "{SSHA512}JFwdm3TJ+RGp0bTenauYKv7sQT3K6/tJbZmBoFAhFI4qRCqwOnLYJxx6ESwRQvqmt6atD2kH55dzUXzDEGnlp8jasL6fbRVm"},
		{"slappasswd SHA256", "sha256", password, "{SHA256}QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE="},
		{"slappasswd SHA512", "sha512", password, "{SHA512}VraY3v7bWkNbY0r+MyC7rz/c2SC2xQOkRvx7endrKY1HnRumqLYXgI6wv1ec6aldZoNHvKtxSQhayTyyeZUZew=="},
		{"hashlib in pw-pbkdf2 notation, SHA-256", "pbkdf2-sha256", password, "{PBKDF2-SHA256}10000$AQIDBAUGBwgJCgsMDQ4PEA$myCZyZvjfBrZPkFg7WCZb/kP4hgJXvyF5FGq6syF8x4"},
		{"hashlib in pw-pbkdf2 notation, SHA-512", "pbkdf2-sha512", password, "{PBKDF2-SHA512}10000$AQIDBAUGBwgJCgsMDQ4PEA$OxXdkxwq6nNWQL5UZL6S.A2p8xNL8KxOKlHKxqgTNR.CYaxWoyNpdBZPAfviB3PRlSr4OY1tu7XBdGjBpMe5Ng"},
		{"hashlib in pw-pbkdf2 notation, SHA-1", "pbkdf2-sha1", password, "{PBKDF2}10000$AQIDBAUGBwgJCgsMDQ4PEA$HlMP5bGDFfU1Y2PtTmvenpNBofU"},
		{"hashlib in 389-ds notation", "pbkdf2-sha256", password, "{PBKDF2_SHA256}AAAIAAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj+OPAdLOzcpJWTx02zJjQRiugrHvGn232hA5qzOdMxW5h0lp19XE3d25OTB+hPEpt7ei7iRsVau3fajhIwPe9P6Bq13NTOmNbVs0yotN8kFDlVSxPLEu00f2J+e9CVPF+ox+vIOTyLHh/RA7JoQRTgF0e0/0q5X0CSqwa5I6pWjsA6jfqFN+uYeigLA4P7Y9PiZvtE1NLbsa/Tir0KZopiGEq04cjKBjwco0icfwCLfdSh4lu3hdAs/IFT2z3Sp7sIUiWqy1gbvpi+9nJaUIBtMDcmGKIasqq9jApFrp9NckSRsGyyOw3pxHCiMBvoBC4LeiRh27cCfx0KUFKfCUlGZ"},
		{"cleartext", "cleartext", password, "{PLAIN}correct horse"},
	}
	h := newHasher(t, HashConfig{AllowCleartext: true})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hash, err := h.Parse(tt.stored)
			if err != nil {
				t.Fatalf("Parse(%q): %v", tt.stored, err)
			}
			if hash.Scheme() != tt.scheme {
				t.Errorf("scheme of %q = %q, want %q", tt.stored, hash.Scheme(), tt.scheme)
			}
			for candidate, want := range map[string]bool{tt.password: true, "Correct horse": false, tt.password[:8]: false} {
				got, err := h.Check(t.Context(), []Hash{hash}, candidate)
				if err != nil || got != want {
					t.Errorf("Check(%q, %q) = %v, %v; want %v", tt.stored, candidate, got, err, want)
				}
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, stored string
		want         error
	}{
		{"empty", "", errHashEmpty},
		{"bare text", "secret", errHashScheme},
		{"text after one dollar", "$plaintext$secret", errHashMalformed},
		{"go-crypt's plaintext", "$plaintext$secret$", errHashScheme},
		{"md5-crypt", "$1$salt$qJH7.N4xYta3aEG/dfqo/0", errHashScheme},
		{"DES crypt", "{CRYPT}abJnggxhB/yWI", errHashMalformed},
		{"unclosed brace", "{SSHA", errHashMalformed},
		{"unknown scheme", "{ROT13}frperg", errHashScheme},
		{"cleartext", "{CLEARTEXT}secret", errHashCleartext},
		{"not base64", "{SSHA}???", errHashMalformed},
		{"SSHA without salt", "{SSHA}L55TUjtiq8FBorTWAZ0jy6g129A=", errHashMalformed},
		{"SHA with salt", "{SHA}YSIUok7GQpd53zppUfwyAKAa9vVv9JcZ", errHashMalformed},
		{"too many rounds", "$6$rounds=999999999$ab$" + strings.Repeat(".", 86), errHashCost},
		{"too few rounds", "$6$rounds=1$ab$" + strings.Repeat(".", 86), errHashCost},
		{"long salt", "$6$" + strings.Repeat("a", 17) + "$" + strings.Repeat(".", 86), errHashMalformed},
		{"bcrypt of cost 31", "$2b$31$zcTEuB8xaIvbeQaiUj4UvO2TUD1.2JDyurP/iDEzsTQbMWRB5CXN6", errHashCost},
		{"argon2 with 4 GiB", "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", errHashCost},
		{"argon2 without passes", "$argon2id$v=19$m=64,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", errHashMalformed},
		{"argon2 with memory twice", "$argon2id$v=19$m=64,m=4194304,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", errHashMalformed},
		{"argon2d", "$argon2d$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", errHashScheme},
		{"yescrypt with 16 GiB", "$y$jPT$Rn1t0CUNbFuUvLJDNBpHp/$UYqx51FSLgUMNO1diQnXAZ2ysqxzTqMs/0T65owjKU3", errHashCost},
		{"389-ds with a billion iterations", "{PBKDF2_SHA256}O5rKAA" + strings.Repeat("A", 426), errHashCost},
		{"389-ds with a short key", "{PBKDF2_SHA256}AAAIAAAB", errHashMalformed},
		{"pbkdf2 with a billion iterations", "{PBKDF2-SHA256}1000000000$AQIDBAUGBwgJCgsMDQ4PEA$myCZyZvjfBrZPkFg7WCZb/kP4hgJXvyF5FGq6syF8x4", errHashCost},
		{"pbkdf2 with an empty key", "{PBKDF2-SHA256}1000$AQIDBAUGBwgJCgsMDQ4PEA$", errHashMalformed},
		{"endless", "$6$" + strings.Repeat("a", 600), errHashLong},
	}
	h := newHasher(t, HashConfig{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := h.Parse(tt.stored); !errors.Is(err, tt.want) {
				t.Errorf("Parse(%q) = %v, want %v", tt.stored, err, tt.want)
			}
		})
	}
}

func TestParseErrorShowsNoHash(t *testing.T) {
	t.Parallel()
	h := newHasher(t, HashConfig{})
	for _, stored := range []string{"hunter2", "{CLEARTEXT}hunter2", "{SSHA}hunter2!", "$6$hunter2$x$y$z", "{CRYPT}hunter2"} {
		if _, err := h.Parse(stored); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Parse(%q) = %v, want an error without the text", stored, err)
		}
	}
}

func TestMakeHash(t *testing.T) {
	t.Parallel()
	h := newHasher(t, HashConfig{})
	for _, scheme := range append(MakeSchemes(), "", "SHA512-Crypt") {
		stored, err := MakeHash(scheme, "naïve café")
		if err != nil {
			t.Fatalf("MakeHash(%q): %v", scheme, err)
		}
		hash, err := h.Parse(stored)
		if err != nil {
			t.Fatalf("Parse(%q): %v", stored, err)
		}
		if ok, err := h.Check(t.Context(), []Hash{hash}, "naïve café"); !ok || err != nil {
			t.Errorf("Check(%q) = %v, %v", stored, ok, err)
		}
		if again, _ := MakeHash(scheme, "naïve café"); again == stored {
			t.Errorf("MakeHash(%q) used the same salt twice", scheme)
		}
	}
	for _, bad := range []struct{ scheme, password string }{{"rot13", "x"}, {"", ""}, {"", "a\x00b"}, {"", strings.Repeat("x", MaxPasswordOctets+1)}} {
		if stored, err := MakeHash(bad.scheme, bad.password); err == nil {
			t.Errorf("MakeHash(%q, %q) = %q, want an error", bad.scheme, bad.password, stored)
		}
	}
}

func TestDecoyMatchesNothing(t *testing.T) {
	t.Parallel()
	h := newHasher(t, HashConfig{})
	if ok, err := h.Check(t.Context(), []Hash{Decoy()}, "x"); ok || err != nil {
		t.Errorf("Check(decoy) = %v, %v; want false", ok, err)
	}
	if h.Computed() != 1 {
		t.Errorf("decoy cost %d computations, want 1", h.Computed())
	}
}

func TestCheckBoundsConcurrency(t *testing.T) {
	t.Parallel()
	const most = 2
	h := newHasher(t, HashConfig{Concurrency: most})
	entered, release := make(chan struct{}, 10), make(chan struct{})
	slow := Hash{scheme: "slow", match: func(string) (bool, error) { entered <- struct{}{}; <-release; return true, nil }}
	var running sync.WaitGroup
	for range most {
		running.Go(func() { _, _ = h.Check(t.Context(), []Hash{slow}, "x") })
		<-entered
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Check(ctx, []Hash{slow}, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("third check with both slots taken = %v, want to wait until its context ends", err)
	}
	close(release)
	running.Wait()
}

func FuzzParseHash(f *testing.F) {
	for _, seed := range []string{
		"$6$ab$x", "{SSHA}YSIUok7GQpd53zppUfwyAKAa9vVv9JcZ", "$y$j9T$a$b", "$2b$05$", "{CRYPT}$5$rounds=1000$a$b",
		"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", "{PBKDF2}1000$AQID$BAUG", "{}", "{", "$$$$",
	} {
		f.Add(seed)
	}
	h, err := NewHasher(HashConfig{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		hash, err := h.Parse(stored)
		if (err == nil) != (hash.match != nil) {
			t.Fatalf("Parse(%q) = %+v, %v: a hash without a matcher, or both", stored, hash, err)
		}
	})
}
