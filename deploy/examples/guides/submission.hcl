# Who may send under which address, by a table in a database
# (tables/sender_login_maps.cf), on port 25 and on a submission port with settings
# of its own, as master.cf has them.
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
  # smtpd_sender_login_maps = proxy:mysql:/etc/postfix/mysql/sender_login_maps.cf
  sender_login_maps = ["sqlite:/etc/postern/sender_login_maps.cf"]

  # smtpd_reject_unlisted_sender = yes; the one for recipients is our default
  reject_unlisted_sender = true

  listener "mx" {
    bind = [":25"]
  }

  policy "helo" {
    reject_non_fqdn_helo_hostname {}
  }

  # smtpd_sender_restrictions, with machines of ours in tables/relay_ip
  policy "sender" {
    permit_mynetworks {}
    reject_non_fqdn_sender {}
    check_client_access { table = "/etc/postern/relay_ip" }
    reject_sender_login_mismatch {}
    permit_sasl_authenticated {}
  }

  # header_checks = regexp:/etc/postfix/header_checks
  policy "content" {
    header_checks { table = "regexp:/etc/postern/header_checks" }
  }

  # submission inet n - n - - smtpd
  listener "submission" {
    bind = [":587"]

    # -o smtpd_tls_auth_only=no
    allow_plaintext_auth = true

    # A login is asked for by the list below, not before it.
    auth = "optional"

    # -o mynetworks=127.0.0.0/8
    mynetworks = ["127.0.0.0/8"]

    # -o smtpd_sasl_authenticated_header=yes
    sasl_authenticated_header = true

    # -o receive_override_options=no_header_body_checks,no_milters
    receive_override_options = ["no_header_body_checks", "no_milters"]

    # -o smtpd_helo_restrictions=
    policy "helo" {}

    # From the gateway: listeners of mode submission have lists of their own.
    policy "sender" {
      permit_mynetworks {}
      reject_non_fqdn_sender {}
      check_client_access { table = "/etc/postern/relay_ip" }
      reject_sender_login_mismatch {}
      permit_sasl_authenticated {}
    }

    # -o smtpd_recipient_restrictions=permit_mynetworks,permit_sasl_authenticated,reject
    policy "relay" {}
    policy "recipient" {
      permit_mynetworks {}
      permit_sasl_authenticated {}
      reject {}
    }
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
