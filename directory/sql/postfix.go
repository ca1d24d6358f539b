package sql

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/directory"
	"github.com/postern-mail/postern/mail"
)

// Drivers of the words that Postfix has for them.
var postfixDrivers = map[string]string{"mysql": MySQL, "pgsql": PostgreSQL, "sqlite": SQLite}

// PostfixKinds are the words before the colon of Postfix's tables in databases.
func PostfixKinds() []string { return []string{"mysql", "pgsql", "sqlite"} }

// ReadPostfix reads a file of mysql_table(5), pgsql_table(5) or
// sqlite_table(5); kind is the word before the colon. What cannot be followed
// is an error that names the line.
func ReadPostfix(kind, name string, r io.Reader) (Config, TableConfig, error) {
	parameters, err := directory.ParsePostfixFile(r)
	if err != nil {
		return Config{}, TableConfig{}, fmt.Errorf("%s: %w", name, err)
	}
	db := Config{Name: name, Driver: postfixDrivers[kind], Shuffle: true, TLS: TLSOff}
	t := TableConfig{Name: kind + ":" + name}
	old := make(map[string]string)
	for _, p := range parameters {
		if err := readParameter(&db, &t, old, p); err != nil {
			return db, t, fmt.Errorf("%s:%d: %w", name, p.Line, err)
		}
	}
	if t.Query == "" && old["table"] != "" {
		t.Query = fmt.Sprintf("SELECT %s FROM %s WHERE %s = '%%s' %s", old["select_field"], old["table"], old["where_field"], old["additional_conditions"])
	}
	if t.Query == "" {
		return db, t, fmt.Errorf("%s: it has no query", name)
	}
	if db.CAFile != "" || db.CertFile != "" {
		db.TLS = TLSOn
	}
	return db, t, nil
}

func readParameter(db *Config, t *TableConfig, old map[string]string, p directory.PostfixParameter) error {
	switch p.Name {
	case "hosts":
		for _, host := range directory.PostfixList(p.Value) {
			if strings.Contains(host, "://") || strings.Contains(host, "@") { // may hold a password: it is not shown
				return errors.New("hosts: a URI is not understood; write host:port, with user, password and dbname in lines of their own")
			}
			db.Hosts = append(db.Hosts, host)
		}
	case "port":
		for i, host := range db.Hosts {
			if !strings.ContainsAny(host, ":/") {
				db.Hosts[i] = host + ":" + p.Value
			}
		}
	case "user":
		db.User = p.Value
	case "password":
		db.Password = p.Value
	case "dbname", "dbpath":
		db.Database = p.Value
	case "query":
		t.Query = p.Value
	case "result_format":
		t.ResultFormat = p.Value
	case "table", "select_field", "where_field", "additional_conditions":
		old[p.Name] = p.Value
	case "domain":
		for _, name := range directory.PostfixList(p.Value) {
			domain, err := mail.ParseDomain(name)
			if strings.ContainsAny(name, ":/!") || err != nil {
				return fmt.Errorf("domain = ... %s: only names of domains are understood; write out what tables and files hold", name)
			}
			t.Domains = append(t.Domains, domain)
		}
	case "expansion_limit", "idle_interval", "retry_interval", "connect_timeout":
		n, err := strconv.Atoi(strings.TrimSuffix(p.Value, "s"))
		if err != nil || n < 0 {
			return fmt.Errorf("%s = %s is not a number", p.Name, p.Value)
		}
		switch p.Name {
		case "expansion_limit":
			t.ExpansionLimit = n
		case "idle_interval":
			db.IdleTime = time.Duration(n) * time.Second
		case "retry_interval":
			db.RetryInterval = time.Duration(n) * time.Second
		}
	case "tls_CAfile":
		db.CAFile = p.Value
	case "tls_cert_file":
		db.CertFile = p.Value
	case "tls_key_file":
		db.KeyFile = p.Value
	case "tls_verify_cert":
		db.SkipVerify = p.Value == "no"
	case "encoding", "charset", "require_result_set":
	default:
		return fmt.Errorf("%s is not understood; take the line out, or describe the table in a database block", p.Name)
	}
	return nil
}
