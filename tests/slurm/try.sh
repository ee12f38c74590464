#!/usr/bin/env bash
# The workflow on a real Slurm of one node, this machine, with the preset smoke. One steering job is cancelled in the
# middle; it must be sent again, and the samples must be those of an unbroken run. For Debian, as root; some minutes.
# Needs the extras dev and slurm on PATH. All daemons listen on 127.0.0.1 alone and are stopped at the end.
#
#     tests/slurm/try.sh | tee tests/slurm/log.txt
set -euo pipefail

project=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d /tmp/slurm-try.XXXXXX)   # plays the disk that a cluster's nodes share
conf=/etc/slurm/slurm.conf   # not a file named by SLURM_CONF: the plugin hides that variable from the jobs' own srun
export PYTHONPATH=$dir/project TOKENIZERS_PARALLELISM=false

say() { printf '\n== %s\n' "$*"; }
fail() { say "FAILED: $*. Logs are in $dir"; exit 1; }

stop() {
    if [ -n "${workflow:-}" ]; then kill "$workflow" 2>/dev/null && wait "$workflow" || true; fi
    if [ "$(readlink $conf)" = "$dir/slurm.conf" ]; then
        scancel --user "$(id -un)" && timeout 30 sh -c 'while squeue -h | grep -q .; do sleep 0.5; done' || true
        rm $conf
    fi
    for daemon in slurmd slurmctld munged; do
        if [ -s "$dir/$daemon.pid" ]; then kill "$(cat "$dir/$daemon.pid")" || true; fi
    done
}
trap stop EXIT

say "A Slurm of one node"
snakemake --help | grep -q -- --slurm-status-command || fail "no Slurm plugin for Snakemake; run: pip install -e '.[dev,slurm]'"
if ! command -v slurmctld slurmd munged >/dev/null; then
    apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null
fi
if [ -e $conf ]; then fail "this machine has a Slurm of its own ($conf)"; fi
mkdir "$dir/state" "$dir/spool" "$dir/project"
chmod 755 "$dir"
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
sed "s|@DIR@|$dir|g; s|@HOST@|$(hostname -s)|g; s|@USER@|$(id -un)|g; s|@CPUS@|$(nproc)|g; s|@MEMORY@|$memory|g" \
    "$project/tests/slurm/slurm.conf" > "$dir/slurm.conf"
ln -s "$dir/slurm.conf" $conf
(umask 077 && head -c 1024 /dev/urandom > "$dir/munge.key")
munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
slurmctld
slurmd
timeout 30 sh -c 'until sinfo -h -o %T | grep -q idle; do sleep 0.5; done' || fail "the node does not come up"
sinfo --version
sinfo -o '%P %D node, %c CPUs, %t'

say "Without Slurm: an unbroken sweep, one job per model"
cd "$project"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$dir/project"
cd "$dir/project"
snakemake --cores 1 --config preset=smoke -- runs/smoke/tiny-{llama,gpt2}/34_activation_steering.ipynb > "$dir/unbroken.log" 2>&1 \
    || fail "the unbroken sweep (unbroken.log)"
mv runs "$dir/unbroken"
rm -rf .snakemake
wc -l "$dir"/unbroken/models/*/generations.jsonl | sed "s|$dir/||"

say "On Slurm: everything, one steering job per layer"
snakemake --workflow-profile profiles/slurm --config preset=smoke threads=1 --slurm-init-seconds-before-status-checks 5 \
    > "$dir/snakemake.log" 2>&1 &
workflow=$!
count() { cat "$1"/models/tiny-llama-*/generations.jsonl 2>/dev/null | grep -c '"layer": 4' || true; }
until [ "$(count runs)" -gt 0 ]; do
    kill -0 $workflow || fail "the workflow ended before it steered anything (snakemake.log)"
    sleep 0.02
done
job=$(squeue -h -t running -o '%i %k' | awk '/tiny-llama_-4/ {print $1}')
squeue -o '%.3i %.9T %.55k %.4C CPUs %.6m %.8l'
scancel "$job"
timeout 60 sh -c "until squeue -h -t cancelled -j $job | grep -q .; do sleep 0.2; done" || fail "job $job was not cancelled"
left=$(count runs)
all=$(count "$dir/unbroken")
say "Job $job was cancelled with $left of $all conditions of tiny-llama, layer 4, on the disk"
[ "$left" -lt "$all" ] || fail "too late: the job had nothing left to do. Try again"
wait $workflow || fail "the workflow (snakemake.log)"

say "All jobs"
sed -n 's|.* SLURM jobid \([0-9]*\) (log: .*slurm_logs/rule_\(.*\)/[0-9]*.log).*|\1 \2|p' "$dir/snakemake.log" > "$dir/names.txt"
sed -n 's|JobId=\([0-9]*\) .*JobState=\([A-Z]*\) .*TimeLimit=\([0-9]*\) .*|\1 \2 \3|p' "$dir/jobs.txt" | sort -n \
    | join - <(sort -n "$dir/names.txt") | awk '{printf "%3d %-9s of at most %3d minutes: %s\n", $1, $2, $3, $4}'

say "The same samples?"
python tests/slurm/compare.py "$dir/unbroken" runs
ls figures/smoke/*.pdf | wc -l | sed 's|$| figures, and the tables beside them|'

stop
trap - EXIT
say "Slurm is stopped. Everything worked"
rm -rf "$dir"
