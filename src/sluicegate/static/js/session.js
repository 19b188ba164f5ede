// Who is signed in, and what that role may do.

import { get, post, remove } from "./api.js";

const RANK = { viewer: 0, operator: 1, admin: 2 };

let current = null;

export const session = () => current;

/** True when the signed-in role is at least `role`. The server decides in any case; this hides what it would refuse. */
export const may = (role) => (RANK[current?.role] ?? 0) >= RANK[role];

export async function loadSession() {
  current = await get("api/session");
  return current;
}

export async function signIn(key) {
  await post("api/session", { key }, { signingIn: true });
  return loadSession();
}

export async function signOut() {
  await remove("api/session");
  current = null;
}
