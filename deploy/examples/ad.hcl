# A gateway before Active Directory and an existing mailbox server that takes
# mail by SMTP. Addresses come from mail and proxyAddresses, logins are
# sAMAccountName, userPrincipalName or an address.
hostname = "mail.example.com"
data_dir = "/var/lib/postern"

tls {
  cert_file = "/etc/postern/tls/cert.pem"
  key_file  = "/etc/postern/tls/key.pem"
}

directory "ldap" "ad" {
  preset             = "ad"
  uris               = ["ldaps://dc1.corp.example.com", "ldaps://dc2.corp.example.com"] # or ["ldaps:///dc=corp,dc=example,dc=com"]
  ca_file            = "/etc/postern/ad-ca.pem"
  bind_dn            = "cn=Mail Service,cn=Users,dc=corp,dc=example,dc=com"
  bind_password_file = "/etc/postern/ldap.password"
  disabled_receive   = "reject"
}

authn "ldap" { directory = directory.ad }

gateway {
  relay = target.smarthost

  listener "mx" { bind = [":25"] }
  listener "submission" { bind = [":587"] }

  domains "local" {
    names      = ["example.com"]
    recipients = directory.ad
    deliver    = target.exchange
  }

  target "smtp" "exchange" {
    address = ["[mbx1.corp.example.com]:25", "[mbx2.corp.example.com]:25"]
    tls     = "verify"
    ca_file = "/etc/postern/ad-ca.pem"
  }

  target "smtp" "smarthost" {
    address       = ["[smtp.provider.example]:587"]
    tls           = "verify"
    user          = "example.com"
    password_file = "/etc/postern/smarthost.password"
  }
}
