package tlspolicy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Failure is a way in which protection failed, in the words of TLS reports
// (RFC 8460 section 4.3).
type Failure string

// The failures.
const (
	NoSTARTTLS            Failure = "starttls-not-supported"
	CertificateMismatch   Failure = "certificate-host-mismatch"
	CertificateExpired    Failure = "certificate-expired"
	CertificateNotTrusted Failure = "certificate-not-trusted"
	ValidationFailure     Failure = "validation-failure"
	TLSAInvalid           Failure = "tlsa-invalid"
	DNSSECInvalid         Failure = "dnssec-invalid"
	DANERequired          Failure = "dane-required"
	STSPolicyFetchError   Failure = "sts-policy-fetch-error"
	STSPolicyInvalid      Failure = "sts-policy-invalid"
	STSWebPKIInvalid      Failure = "sts-webpki-invalid"
)

// Error returns the failure's name.
func (f Failure) Error() string { return string(f) }

// FailureOf returns the failure err comes from; ValidationFailure for any other
// error, "" for nil.
func FailureOf(err error) Failure {
	var f Failure
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f
	default:
		return ValidationFailure
	}
}

// verifyChain checks that the first certificate leads to one of roots (nil
// means the system's), is valid now and has one of names.
func verifyChain(certs []*x509.Certificate, roots *x509.CertPool, names []string, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now}); err != nil {
		return classify(err)
	}
	for _, name := range names {
		if hasName(certs[0], name) {
			return nil
		}
	}
	return fmt.Errorf("%w: certificate is for %q, not for %q", CertificateMismatch, certs[0].DNSNames, names)
}

// classify says which Failure an error of package x509 is.
func classify(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w: %w", CertificateExpired, err)
	}
	return fmt.Errorf("%w: %w", CertificateNotTrusted, err)
}

// hasName reports whether a certificate is for name, or, when that begins with
// a dot, for any name below it.
func hasName(cert *x509.Certificate, name string) bool {
	if !strings.HasPrefix(name, ".") {
		return cert.VerifyHostname(name) == nil
	}
	for _, n := range cert.DNSNames {
		if len(n) > len(name) && strings.HasSuffix(strings.ToLower(n), name) {
			return true
		}
	}
	return false
}
