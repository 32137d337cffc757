"""The demo's guest: how it is built, what runs inside it, and how its data is proven intact from outside."""
