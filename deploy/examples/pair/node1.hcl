# Node 1 of a pair on one machine, for trying: docs/replication.md. Start it in
# the folder of this file. It listens on loopback only, without TLS for clients.
hostname = "node1.example.com"
data_dir = "node1"

directory "ldif" "people" {
  file = "people.ldif"
  base = "dc=example,dc=com"
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" { bind = ["127.0.0.1:2501"] }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.people
    deliver    = target.pair
  }

  # Both nodes, node 0 first: each account's mail goes to its home, and to the
  # other while that is away.
  target "lmtp" "pair" { address = ["127.0.0.1:2400", "127.0.0.1:2401"] }
}

backend {
  node = 1
  listener "lmtp" { bind = ["127.0.0.1:2401"] }
  listener "imap" {
    bind                 = ["127.0.0.1:1431"]
    allow_plaintext_auth = true
  }

  replica {
    partner     = "127.0.0.1:7000"
    listen      = ["127.0.0.1:7001"]
    secret_file = "pair.secret"
  }
}
