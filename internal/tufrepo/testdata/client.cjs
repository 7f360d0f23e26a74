// client.cjs URL ROOT CACHE: goes through an update repository with tuf-js,
// downloads every target that the manifest names, and says what it saw.
const fs = require('fs');
const path = require('path');
const { Updater } = require('tuf-js');

async function main([url, root, cache]) {
  const targetDir = path.join(cache, 'targets');
  fs.mkdirSync(targetDir, { recursive: true });
  if (!fs.existsSync(path.join(cache, 'root.json'))) {
    fs.copyFileSync(root, path.join(cache, 'root.json'));
  }
  const updater = new Updater({ metadataDir: cache, metadataBaseUrl: url, targetDir, targetBaseUrl: url + '/targets' });
  await updater.refresh();
  const version = (role) => JSON.parse(fs.readFileSync(path.join(cache, role + '.json'))).signed.version;
  let seen = `root ${version('root')}, timestamp ${version('timestamp')}`;
  const download = async (name) => fs.readFileSync(await updater.downloadTarget(await updater.getTargetInfo(name)));
  if (!(await updater.getTargetInfo('manifest.json'))) {
    return seen + ', no releases';
  }
  const manifest = JSON.parse(await download('manifest.json'));
  const names = new Set(['manifest.json']);
  for (const u of manifest.updates) {
    for (const f of [u.images.root, u.images.hash, u.images.uki, ...(u.sbom || []), ...(u.provenance || [])]) {
      names.add(f.target);
    }
  }
  manifest.migrations.forEach((m) => m.files.forEach((f) => names.add(f.target)));
  for (const name of names) {
    await download(name);
  }
  return `${seen}, releases ${manifest.updates.map((u) => u.version).join(' ')}, ${names.size} targets`;
}

main(process.argv.slice(2)).then(
  (seen) => console.log(seen),
  (err) => {
    console.log(`refused: ${err.constructor.name}`);
    process.exitCode = 1;
  },
);
