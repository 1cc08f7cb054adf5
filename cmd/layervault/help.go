package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"layervault/docs"
)

// newHelpCommand replaces cobra's help verb: it also prints the pages of the manual, which are
// built in, so that messages can name a page on every machine.
func newHelpCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND... | TOPIC]",
		Short: "Print the help of a command, or a page of the manual",
		Long: `Print the help of a command, or a page of the manual: installation, keys, recovery and more.
Without an argument: the commands, and the pages.`,
		Example: `  layervault help key enroll
  layervault help recovery | less`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.help(cmd.Root(), args) },
	}
}

func (a *app) help(root *cobra.Command, args []string) error {
	topics, err := docs.Topics()
	if err != nil {
		return fmt.Errorf("read the manual: %w", err)
	}
	if len(args) == 0 {
		if err := root.Help(); err != nil {
			return err
		}
		return a.printTopics(topics)
	}
	for _, topic := range topics {
		if len(args) != 1 || topic.Name != args[0] {
			continue
		}
		if a.json {
			return a.printJSON(topic)
		}
		return a.printf("%s", topic.Text)
	}
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == root || len(rest) > 0 {
		return usagef("no command or manual page is called %q", strings.Join(args, " "))
	}
	return cmd.Help()
}

func (a *app) printTopics(topics []docs.Topic) error {
	if err := a.printf("\nPages of the manual (layervault help TOPIC):\n"); err != nil {
		return err
	}
	for _, topic := range topics {
		if err := a.printf("  %-14s %s\n", topic.Name, topic.Title); err != nil {
			return err
		}
	}
	return nil
}
