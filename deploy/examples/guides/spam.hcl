# Against spam: what clients say of themselves, of the sender and of the recipient,
# a table of senders (tables/sender_access), two lists in the DNS, and postgrey.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldif" "people" {
  file = "/etc/postern/people.ldif"
  base = "dc=example,dc=com"
}

authn "ldif" { directory = directory.people }

gateway {
  listener "mx" {
    bind = [":25"]

    # smtpd_helo_required = yes, which is our default
    helo_required = true
  }

  # smtpd_delay_reject = yes, which is our default
  delay_reject = true

  mynetworks = ["192.168.0.0/24", "127.0.0.0/8"]

  # smtpd_helo_restrictions
  policy "helo" {
    permit_mynetworks {}
    reject_non_fqdn_helo_hostname {}
    reject_invalid_helo_hostname {}
    permit {}
  }

  # smtpd_sender_restrictions
  policy "sender" {
    permit_mynetworks {}
    reject_non_fqdn_sender {}
    reject_unknown_sender_domain {}
    permit {}
  }

  # smtpd_recipient_restrictions
  policy "recipient" {
    reject_unauth_pipelining {}
    reject_non_fqdn_recipient {}
    reject_unknown_recipient_domain {}
    permit_mynetworks {}
    reject_unauth_destination {}
    check_sender_access { table = "/etc/postern/sender_access" }
    reject_rbl_client { list = "zen.spamhaus.org" }
    reject_rbl_client { list = "bl.spamcop.net" }

    # Greylisting without another program: check_greylist {}
    check_policy_service { address = "unix:/var/spool/postfix/postgrey/socket" }
    permit {}
  }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.people
    deliver    = target.mailboxes
  }

  target "lmtp" "mailboxes" { address = ["unix:/run/postern/lmtp.sock"] }
}

backend {
  listener "lmtp" { bind = ["unix:/run/postern/lmtp.sock"] }
  listener "imaps" { bind = [":993"] }
}
