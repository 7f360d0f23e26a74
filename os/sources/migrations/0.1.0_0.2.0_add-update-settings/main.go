// Adds the settings of the updater, which datastores of 0.1.0 do not have.
package main

import "dinghy/migration"

func main() {
	migration.Main(
		migration.Add("settings.updates.version-lock", "latest"),
		migration.Add("settings.updates.ignore-waves", false),
	)
}
