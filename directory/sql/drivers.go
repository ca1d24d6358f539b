package sql

import (
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // makes itself known as "sqlite"
)

// maxMessageOctets bounds one message of a server: a row with its values.
const maxMessageOctets = 16 << 20

// open returns the pool of a host. It does not connect.
func (cfg Config) open(p place) (*sql.DB, error) {
	if cfg.Driver == SQLite {
		return cfg.openSQLite()
	}
	security, err := cfg.tls(p)
	if err != nil {
		return nil, err
	}
	var connector driver.Connector
	if cfg.Driver == MySQL {
		connector, err = cfg.mysql(p, security)
	} else {
		connector, err = cfg.postgresql(p, security)
	}
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(cfg.MaxConnections)
	db.SetMaxIdleConns(cfg.MaxConnections)
	db.SetConnMaxIdleTime(cfg.IdleTime)
	return db, nil
}

// tls returns how connections to a host are protected; nil for not.
func (cfg Config) tls(p place) (*tls.Config, error) {
	if cfg.TLS == TLSOff || p.socket != "" || cfg.TLS == TLSAuto && p.here() && cfg.CAFile == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName, InsecureSkipVerify: cfg.SkipVerify}
	if c.ServerName == "" {
		c.ServerName = p.host
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", cfg.CAFile)
		}
	}
	if cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (cfg Config) mysql(p place, security *tls.Config) (driver.Connector, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName = cfg.User, cfg.Password, cfg.Database
	c.Net, c.Addr = "tcp", p.host+":"+strconv.Itoa(p.port)
	if strings.Contains(p.host, ":") {
		c.Addr = "[" + p.host + "]:" + strconv.Itoa(p.port)
	}
	if p.socket != "" {
		c.Net, c.Addr = "unix", p.socket
	}
	c.TLS = security
	c.Timeout, c.ReadTimeout, c.WriteTimeout = cfg.Timeout, cfg.Timeout, cfg.Timeout
	c.MaxAllowedPacket = maxMessageOctets
	c.Logger = log.New(io.Discard, "", 0) // errors are returned, too
	return mysql.NewConnector(c)
}

func (cfg Config) postgresql(p place, security *tls.Config) (driver.Connector, error) {
	// The environment of this process (PGHOST and its like) says nothing here:
	// all it could set is set anew.
	c, err := pgx.ParseConfig("host=localhost sslmode=disable")
	if err != nil {
		return nil, err
	}
	c.Host, c.Port = p.host, uint16(p.port)
	if p.socket != "" {
		c.Host = p.socket
		if dir, file := filepath.Split(p.socket); strings.HasPrefix(file, ".s.PGSQL.") {
			port, err := strconv.ParseUint(strings.TrimPrefix(file, ".s.PGSQL."), 10, 16)
			if err != nil {
				return nil, fmt.Errorf("host %q: wrong port", p.text)
			}
			c.Host, c.Port = dir, uint16(port)
		}
	}
	c.User, c.Password, c.Database = cfg.User, cfg.Password, cfg.Database
	c.TLSConfig, c.Fallbacks, c.ValidateConnect = security, nil, nil
	c.ConnectTimeout = cfg.Timeout
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(r, w)
		f.SetMaxBodyLen(maxMessageOctets)
		return f
	}
	c.RuntimeParams = map[string]string{"application_name": "postern"}
	// Without names for prepared statements poolers in between do not matter.
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	return stdlib.GetConnector(*c), nil
}

func (cfg Config) openSQLite() (*sql.DB, error) {
	if _, err := os.Stat(cfg.Database); err != nil {
		return nil, err
	}
	path := (&url.URL{Path: cfg.Database}).EscapedPath()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro&_pragma=query_only(1)&_pragma=busy_timeout("+
		strconv.FormatInt(cfg.Timeout.Milliseconds()/2, 10)+")")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(cfg.MaxConnections)
	db.SetMaxIdleConns(cfg.MaxConnections)
	return db, nil
}

// Numbers of MySQL by which a server says that it, not the query, is at fault.
var mysqlOutage = []uint16{1040, 1045, 1049, 1053, 1129, 1130, 1203, 1226, 1317, 1927}

// isOutage reports whether an error is about the host, so that another one may
// know. A server that understood the query and refuses it is none.
func isOutage(err error) bool {
	var ofMySQL *mysql.MySQLError
	if errors.As(err, &ofMySQL) {
		return slices.Contains(mysqlOutage, ofMySQL.Number)
	}
	var ofPostgreSQL *pgconn.PgError
	if errors.As(err, &ofPostgreSQL) {
		switch class := ofPostgreSQL.Code[:min(2, len(ofPostgreSQL.Code))]; class {
		case "08", "28", "3D", "53", "57", "58", "XX":
			return true
		}
		return false
	}
	var inSQLite interface{ Code() int }
	return !errors.As(err, &inSQLite)
}
