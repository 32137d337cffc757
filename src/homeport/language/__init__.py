"""Messages in the reader's language. The code speaks English, and English is what is stored; here it is turned into
another language where it leaves: in an answer of the API, on a terminal.

A formatted text is recognised by the template that made it (``template``), so that whoever writes a message writes
English and nothing else. What is not recognised stays English; nothing here fails for want of a translation.
"""
