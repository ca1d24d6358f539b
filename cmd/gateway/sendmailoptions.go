package main

import (
	"net/url"
	"strings"

	"github.com/postern-mail/postern/mail"
)

// sendmailMode is what sendmail is called for.
type sendmailMode int

const (
	modeSubmit sendmailMode = iota
	modeListQueue
	modeFlush
	modeAliases
	modeSession
)

// sendmailOptions is a command line of sendmail(1).
type sendmailOptions struct {
	mode       sendmailMode
	config     string // -C
	flush      url.Values
	fromHeader bool // -t
	ignoreDots bool // -i
	from       string
	fromGiven  bool
	fullName   string
	body       mail.Body
	notify     mail.Notify
	ret        mail.DSNReturn
	envelopeID string
	recipients []string
}

// sendmailLetters are the options of Postfix's sendmail(1) in the notation of
// getopt(3): a colon follows those that take an argument.
const sendmailLetters = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"

// parseSendmail reads a command line. Options that mean something to other
// mail systems only are accepted and do nothing, as with Postfix.
func parseSendmail(args []string) (o sendmailOptions, err error) {
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		cluster := args[0][1:]
		args = args[1:]
		if cluster == "-" {
			break
		}
		for cluster != "" {
			letter := cluster[0]
			cluster = cluster[1:]
			at := strings.IndexByte(sendmailLetters, letter)
			if at < 0 || letter == ':' {
				return o, exitf(exUsage, "unknown option -%c; see postern sendmail --help", letter)
			}
			value := ""
			if strings.HasPrefix(sendmailLetters[at+1:], ":") {
				value, cluster = cluster, ""
				switch {
				case value != "" || letter == 'q': // -q alone has none
				case len(args) == 0:
					return o, exitf(exUsage, "option -%c needs an argument", letter)
				default:
					value, args = args[0], args[1:]
				}
			}
			if err := o.set(letter, value); err != nil {
				return o, err
			}
		}
	}
	o.recipients = args
	if o.mode == modeSubmit && len(args) == 0 && !o.fromHeader {
		return o, exitf(exUsage, "recipient addresses must be specified on the command line or via the -t option")
	}
	return o, nil
}

// set takes over one option.
func (o *sendmailOptions) set(letter byte, value string) (err error) {
	switch letter {
	case 'b':
		err = o.setMode(value)
	case 'q':
		err = o.setFlush(value)
	case 'C':
		o.config = value
	case 'F':
		o.fullName = value
	case 'f', 'r':
		o.from, o.fromGiven = value, true
	case 'i':
		o.ignoreDots = true
	case 'o':
		o.ignoreDots = o.ignoreDots || value == "i"
	case 't':
		o.fromHeader = true
	case 'I':
		o.mode = modeAliases
	case 'V':
		o.envelopeID = value
	case 'B':
		o.body = mail.Body(strings.ToUpper(value))
		if o.body != mail.Body7Bit && o.body != mail.Body8BitMIME {
			err = exitf(exUsage, "-B is 7BIT or 8BITMIME, not %q", value)
		}
	case 'R':
		err = o.setReturn(value)
	case 'N':
		err = o.setNotify(value)
	}
	return err
}

func (o *sendmailOptions) setMode(value string) error {
	modes := map[string]sendmailMode{"m": modeSubmit, "p": modeListQueue, "i": modeAliases, "s": modeSession}
	mode, known := modes[value]
	if !known {
		return exitf(exUsage, "mode -b%s is not for this command: the server is run by postern serve", value)
	}
	o.mode = mode
	return nil
}

// setFlush reads what to try again now: everything, -qIID, or -qRSITE.
func (o *sendmailOptions) setFlush(value string) error {
	switch {
	case value == "":
		o.flush = url.Values{"all": {"true"}}
	case value[0] == 'I':
		o.flush = url.Values{"id": {value[1:]}}
	case value[0] == 'R':
		o.flush = url.Values{"destination": {value[1:]}}
	default:
		return exitf(exUsage, "-q%s: intervals are the server's, which is run by postern serve", value)
	}
	o.mode = modeFlush
	return nil
}

func (o *sendmailOptions) setReturn(value string) error {
	o.ret = mail.DSNReturn(strings.ToUpper(value))
	if o.ret != mail.ReturnFull && o.ret != mail.ReturnHeaders {
		return exitf(exUsage, "-R is full or hdrs, not %q", value)
	}
	return nil
}

func (o *sendmailOptions) setNotify(value string) error {
	events := map[string]mail.Notify{
		"never": mail.NotifyNever, "success": mail.NotifySuccess, "failure": mail.NotifyFailure, "delay": mail.NotifyDelay,
	}
	o.notify = 0
	for word := range strings.SplitSeq(strings.ToLower(value), ",") {
		event, known := events[strings.TrimSpace(word)]
		if !known {
			return exitf(exUsage, "-N is never, or of success, failure, delay, not %q", value)
		}
		o.notify |= event
	}
	if o.notify&mail.NotifyNever != 0 && o.notify != mail.NotifyNever {
		return exitf(exUsage, "-N never stands alone, not %q", value)
	}
	return nil
}
