/* All of its time is the kernel's and the dynamic linker's. */
int main(void)
{
    return 0;
}
