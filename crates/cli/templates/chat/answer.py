from promptflow.core import tool


@tool
def answer(question: str, chat_history: list) -> str:
    turn = len(chat_history) + 1
    return f"This is turn {turn}, and you said: {question}"
