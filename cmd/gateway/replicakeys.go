package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/backend/replica/link"
	"github.com/postern-mail/postern/config"
)

func replicaKeygenCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keygen FILE", Short: "Make a secret for both servers of a pair", Args: cobra.ExactArgs(1),
		Long: "Writes a new secret to FILE, which must not exist, for secret_file on both servers of a pair:\n" +
			"copy it to the other one, and let nobody but the server's user read it.",
		RunE: func(c *cobra.Command, args []string) error {
			if err := writeSecret(args[0], link.NewSecret()); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s holds a new secret. Copy it to the partner, and name it by secret_file on both.\n", args[0])
			return nil
		},
	}
}

// writeSecret makes a file that only its owner can read.
func writeSecret(name, secret string) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if os.IsExist(err) {
		return fmt.Errorf("%s is there already; a pair that uses it would lose its connection. Remove it first, or choose another name", name)
	}
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(file, secret); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

func replicaPinCommand() *cobra.Command {
	return &cobra.Command{
		Use: "pin", Short: "Print the pin of this server's key, for the partner's partner_pin", Args: cobra.NoArgs,
		Long: "Prints the digest of the key that this server shows its partner, which the partner names by partner_pin.\n" +
			"Where cert_file names no certificate and the server has made none yet, one is made.",
		RunE: func(c *cobra.Command, _ []string) error {
			cert, err := replicaCertificate(configPath(c))
			if err != nil {
				return err
			}
			pin, err := link.PinOf(cert)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), pin)
			return nil
		},
	}
}

// replicaCertificate returns what a server shows its partner.
func replicaCertificate(configPath string) (tls.Certificate, error) {
	certFile, keyFile, folder, node, err := config.ReplicaKey(configPath)
	if err != nil {
		return tls.Certificate{}, err
	}
	if certFile != "" && keyFile != "" {
		return tls.LoadX509KeyPair(certFile, keyFile)
	}
	cert, err := link.OwnKey(folder, uint16(node))
	if err != nil {
		return cert, err
	}
	return cert, giveToServer(folder)
}

// giveToServer has what root made in data_dir belong to whom data_dir belongs
// to: the server's user, who has to read it.
func giveToServer(folder string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(folder))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	names := []string{folder}
	for _, e := range entries {
		names = append(names, filepath.Join(folder, e.Name()))
	}
	for _, name := range names {
		if err := os.Lchown(name, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return nil
}
