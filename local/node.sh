#!/usr/bin/env bash
# Process 1 of a real node: containerd, kubelet and kube-proxy in their own mount and pid
# namespaces. Killing it is a power cut: the kernel ends everything inside and drops the mounts.
set -euo pipefail
: "${NODE_DIR:?}" "${NODE_NAME:?}" "${NODE_ADDRESS:?}" "${NODE_IMAGES:?}"

# kubelet sets these for the whole machine; here it sets copies that only this node sees
for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ -e "/proc/sys/$key" ] || continue
  copy=$NODE_DIR/sysctl/$key
  mkdir -p "${copy%/*}"
  cat "/proc/sys/$key" >"$copy"
  mount --bind "$copy" "/proc/sys/$key"
done

# sockets, network namespaces of pods, locks: nothing of the host's, nothing left for the host
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/containerd /run/lock
# paths that kubelet and the CNI library have built in
for place in /var/lib/kubelet /var/lib/cni /var/log/containers; do
  mkdir -p "$NODE_DIR$place"
  mount --bind "$NODE_DIR$place" "$place"
done

# a daemon that ends is started again, as an init would; its pods go on meanwhile
keep() {
  local log=$NODE_DIR/$1.log
  shift
  while :; do
    "$@" >>"$log" 2>&1 || echo "ended with $?" >>"$log"
    sleep 1
  done
}

for log in containerd kubelet proxy; do
  [ ! -e "$NODE_DIR/$log.log" ] || mv "$NODE_DIR/$log.log" "$NODE_DIR/$log.log.1"
done
keep containerd "$NODE_CONTAINERD" --config "$NODE_DIR/containerd.toml" &
ctr=("$NODE_CTR" --address /run/containerd/containerd.sock --namespace k8s.io)
for _ in $(seq 300); do
  if "${ctr[@]}" version >/dev/null 2>&1; then break; fi
  sleep 0.1
done
for image in $NODE_IMAGES; do
  "${ctr[@]}" images import "$image" >>"$NODE_DIR/import.log" 2>&1 || {
    echo "image $image cannot be imported: $(tail -n 1 "$NODE_DIR/import.log")" >&2
    exit 1
  }
done
keep kubelet "$NODE_KUBELET" --config="$NODE_DIR/kubelet.json" \
  --kubeconfig="$NODE_DIR/kubelet.kubeconfig" --root-dir=/var/lib/kubelet \
  --cert-dir="$NODE_DIR/certs" --hostname-override="$NODE_NAME" --node-ip="$NODE_ADDRESS" &
keep proxy "$NODE_PROXY" --config="$NODE_DIR/proxy.json" &
wait
