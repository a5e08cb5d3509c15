package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"postern/shared/keys"
	"postern/shared/secret"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a root token, or check how a token is written",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(tokenNewCommand(), tokenCheckCommand())
	return cmd
}

func tokenNewCommand() *cobra.Command {
	var digest bool
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Print a new root token, for API_TOKEN or Secrets Manager",
		Long: `Print a token of 32 random bytes. Nobody knows it yet: it is a root token once
it is configured, as API_TOKEN or in the deployment's secret. Keys for clients
come from ` + "`postern keys create`" + `.`,
		Example: `  aws secretsmanager put-secret-value --secret-id ID --secret-string="$(postern token new)"`,
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			token := secret.Generate()
			text := token.Reveal() + "\n"
			if digest {
				text += "sha256:" + secret.DigestOf(token.Reveal()).Reveal() + "\n"
			}
			_, err := io.WriteString(os.Stdout, text)
			return err
		},
	}
	cmd.Flags().BoolVar(&digest, "digest", false, "print what may stand in API_TOKEN in its place too, in a second line")
	return cmd
}

func tokenCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Tell whether a token was copied whole, without asking a server",
		Long: `Check the form of a token, and the checksum of an issued key. Whether it is
valid, its server knows. The token is read from standard input, or typed in; as
an argument it would stand in the list of processes.`,
		Example: `  postern token check < token.txt`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return errors.New("a token as an argument can be read by others, and is in the shell's history now: `postern token check` reads it from standard input")
		},
		RunE: func(*cobra.Command, []string) error {
			token, err := readToken()
			if err != nil {
				return err
			}
			form, err := formOf(token.Reveal())
			if err != nil {
				return fmt.Errorf("the token is malformed: %w", err)
			}
			fmt.Println(form)
			return nil
		},
	}
}

// readToken reads a token that is typed in, or all of standard input. White space
// around it is an editor's.
func readToken() (secret.String, error) {
	token, err := askHidden("Token: ")
	if !errors.Is(err, errNobody) {
		return token, err
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, maxLine))
	return secret.New(strings.TrimSpace(string(text))), err
}

// formOf says what a token is by its form, and nothing of what is secret in it.
func formOf(token string) (string, error) {
	if strings.HasPrefix(token, "postern_") {
		id, err := keys.Parse(token)
		return "an issued key, whole; its id is " + id, err
	}
	if !secret.WellFormed(token) {
		return "", errors.New(malformed(token))
	}
	return fmt.Sprintf("a token of %d characters, which can be a configured one; it is no issued key", len(token)), nil
}
