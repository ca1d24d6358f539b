# Node 0 of a pair on one machine, for trying: docs/replication.md. Start it in
# the folder of this file. It listens on loopback only, without TLS for clients.
hostname = "node0.example.com"
data_dir = "node0"

directory "ldif" "people" {
  file = "people.ldif"
  base = "dc=example,dc=com"
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" { bind = ["127.0.0.1:2500"] }

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
  node = 0
  listener "lmtp" { bind = ["127.0.0.1:2400"] }
  listener "imap" {
    bind                 = ["127.0.0.1:1430"]
    allow_plaintext_auth = true
  }

  replica {
    partner     = "127.0.0.1:7001"
    listen      = ["127.0.0.1:7000"]
    secret_file = "pair.secret"
  }
}
