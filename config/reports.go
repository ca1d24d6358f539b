package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/postern-mail/postern/delivery/dsn"
	"github.com/postern-mail/postern/mail"
)

// Reports says what senders and the postmaster are told.
type Reports struct {
	block
	SizeLimit     Octets      `conf:"bounce_size_limit" default:"50000" doc:"Size up to which a message that could not be delivered goes back whole; of a larger one its header does."`
	Threaded      bool        `conf:"enable_threaded_bounces" default:"false" doc:"Reports refer to the message by In-Reply-To, so that mail programs show both together."`
	Languages     []string    `conf:"languages" default:"en" doc:"Languages of a report to somebody about whom nothing is known, one text after the other. There are en, de, zh-Hans, and those in template_dir."`
	FollowSender  bool        `conf:"sender_language" default:"true" doc:"Write in the language that the message tells by Accept-Language or Content-Language, where there are texts in it."`
	ByDomain      []*Language `conf:"language,block" example:"language \"de\" { domains = [\"example.de\", \".at\"] }" doc:"Language of the reports to senders at some domains. Label: the language; several in one report as \"de,en\"."`
	TemplateDir   string      `conf:"template_dir" doc:"Folder of texts called KIND.LANGUAGE, such as failure.de, that replace the built-in ones or add a language; docs/reports.md tells how they are written. Read again on reload."`
	Aliases       string      `conf:"reveal_aliases" default:"ours" oneof:"ours everybody" doc:"Who learns from reports where mail to an alias or group of ours went: our own senders only, or everybody, as with Postfix."`
	NotifyClasses []string    `conf:"notify_classes" default:"resource software" doc:"What the postmaster is told of: bounce and delay (a copy of each such report, header only), 2bounce (mail with the null reverse-path that nobody took), resource (no room for mail), software (a fault or a setting of ours keeps mail from its way). Of each class at most ten at once and ten in an hour."`

	BounceTo       mail.Address `conf:"bounce_notice_recipient" doc:"Who gets the class bounce. Empty, here and below: the postmaster."`
	DoubleBounceTo mail.Address `conf:"double_bounce_notice_recipient" doc:"Who gets the class 2bounce (Postfix's 2bounce_notice_recipient)."`
	DelayTo        mail.Address `conf:"delay_notice_recipient" doc:"Who gets the class delay."`
	ErrorTo        mail.Address `conf:"error_notice_recipient" doc:"Who gets the classes resource and software."`

	files []dsn.File
}

// Language is the language of senders at some domains.
type Language struct {
	block
	Tags    string   `conf:"tags,label"`
	Domains []string `conf:"domains" required:"the domains of the senders, such as [\"example.de\"]" doc:"Domains of the senders; .example.com stands for all domains below it."`
}

// reports reads the texts and hears what their room says of them.
func (c checker) reports(r *Reports) {
	known := mail.NoticeClasses()
	for _, name := range r.NotifyClasses {
		if !slices.ContainsFunc(known, func(k mail.NoticeClass) bool { return k.String() == name }) {
			names := make([]string, len(known))
			for i, k := range known {
				names[i] = k.String()
			}
			at := r.rangeOf("notify_classes")
			switch name {
			case "data", "policy", "protocol":
				c.errorf(at, "Wrong value", "notify_classes: there are no notices of the class %q; the audit has each such session, see postern audit. Leave the class out.", name)
			default:
				c.errorf(at, "Wrong value", "notify_classes: there is no class %q.%s", name, didYouMean(name, names))
			}
		}
	}
	if r.TemplateDir != "" {
		c.templates(r)
	}
	cfg := dsn.Config{Hostname: "localhost", Files: r.files}
	if _, err := dsn.New(cfg); err != nil {
		c.errorf(r.rangeOf("template_dir"), "Wrong template", "%v", err)
		return // or languages would be told to be missing
	}
	cfg.Languages = r.Languages
	if _, err := dsn.New(cfg); err != nil {
		c.errorf(r.rangeOf("languages"), "No such language", "%v.", err)
	}
	c.languages(r, cfg)
}

func (c checker) languages(r *Reports, cfg dsn.Config) {
	seen := make(map[string]hcl.Range)
	for _, l := range r.ByDomain {
		cfg.Languages = l.tags()
		if _, err := dsn.New(cfg); err != nil {
			c.errorf(l.at, "No such language", "%v.", err)
		}
		for _, d := range l.Domains {
			if _, err := mail.ParseDomain(strings.TrimPrefix(d, ".")); err != nil {
				c.errorf(l.rangeOf("domains"), "Wrong value", "domains: %v.", err)
			}
			if first, ok := seen[strings.ToLower(d)]; ok {
				c.errorf(l.rangeOf("domains"), "Repeated name", "The domain %q has a language in %s already.", d, place(first))
			}
			seen[strings.ToLower(d)] = l.at
		}
	}
}

// maxTemplates bounds what template_dir may hold.
const maxTemplates = 1000

// templates reads the files of template_dir.
func (c checker) templates(r *Reports) {
	at := r.rangeOf("template_dir")
	entries, err := os.ReadDir(r.TemplateDir)
	if err != nil {
		c.errorf(at, "Cannot read folder", "template_dir: %v.", unwrapPath(err))
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), "~") {
			continue // what editors leave behind
		}
		if len(r.files) == maxTemplates {
			c.errorf(at, "Too many files", "template_dir holds more than %d files.", maxTemplates)
			return
		}
		path := filepath.Join(r.TemplateDir, e.Name())
		text, err := readBounded(path)
		if err != nil {
			c.errorf(at, "Cannot read file", "template_dir: %v.", err)
			continue
		}
		r.files = append(r.files, dsn.File{Name: path, Text: text})
	}
}

func (l *Language) tags() []string {
	tags := strings.Split(l.Tags, ",")
	for i := range tags {
		tags[i] = strings.TrimSpace(tags[i])
	}
	return tags
}

// Reports returns what reports say. local tells domains of ours.
func (f *File) Reports(local func(mail.Domain) bool) dsn.Config {
	r := f.Gateway.Reports
	cfg := dsn.Config{
		Hostname: f.Hostname, MaxReturned: int64(r.SizeLimit), Threaded: r.Threaded, Languages: r.Languages,
		LanguagesOf: make(map[string][]string), IgnoreSender: !r.FollowSender, Files: r.files,
	}
	if r.Aliases == "ours" {
		cfg.Local = local
	}
	for _, l := range r.ByDomain {
		for _, d := range l.Domains {
			cfg.LanguagesOf[d] = l.tags()
		}
	}
	return cfg
}

// NoticeTo returns who is told of a class, and whether anybody is.
func (f *File) NoticeTo(class mail.NoticeClass) (to mail.Address, wanted bool) {
	r := f.Gateway.Reports
	switch class {
	case mail.NoticeBounce:
		to = r.BounceTo
	case mail.NoticeDoubleBounce:
		to = r.DoubleBounceTo
	case mail.NoticeDelay:
		to = r.DelayTo
	case mail.NoticeResource, mail.NoticeSoftware:
		to = r.ErrorTo
	}
	if to.IsNull() {
		to = f.Postmaster()
	}
	if to.IsNull() {
		to = mail.Address{Local: mail.Postmaster, Domain: mail.Domain(f.Hostname)}
	}
	return to, slices.Contains(r.NotifyClasses, class.String())
}
